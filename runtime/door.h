/* door: what the gate does for a connection that speaks RESP2, or RESP3, instead of frames (a visitor).
 *
 * Commands of the cache that came together go into the replica as one slot and come back as one reply; an app's own
 * command is a slot of its own; what needs no actor is answered at once (courtesies.h). Answers go out in the order of
 * the requests. What a visitor sent is taken turn by turn: a turn is what was there, within limits, and the next begins
 * when all of it is answered. So a connection sees its own writes, no read is overtaken by a later write, and a client that
 * sends more waits in its own socket. A turn's cache commands are a QUERY if all of them read, else a COMMAND.
 *
 * Each visitor has a leftfold session, opened with its first COMMAND and closed when the connection goes. A
 * request is sent once, or again under a new number when the answer says that it was not applied. Whether a client that
 * lost its connection was heard, it cannot know: its own retry may apply twice.
 *
 *   part of a turn   SAID: an answer that waits for those before it   ASKED: a slot is in the replica
 *                    AGAIN: to be asked (again), when there is room
 *
 * Does no I/O; one thread; the bytes of a client can make it neither crash nor grow beyond its limits (I10).
 */
#ifndef CFFI_CDEF
#pragma once
#include "resp.h"
#endif

enum door_kind { DOOR_COURTESY = 0, DOOR_CACHE = 1, DOOR_APP = 2 };
enum door_value { DOOR_TEXT = 0, DOOR_BYTES = 1, DOOR_INTEGER = 2, DOOR_REAL = 3, DOOR_BOOLEAN = 4 };

enum courtesy {
    COURTESY_PING = 1, COURTESY_ECHO, COURTESY_SELECT, COURTESY_HELLO, COURTESY_CLIENT, COURTESY_COMMAND,
    COURTESY_CONFIG, COURTESY_INFO, COURTESY_AUTH, COURTESY_QUIT, COURTESY_MULTI, COURTESY_EXEC, COURTESY_DISCARD
};

struct door_field { uint32_t name_bytes, value; uint8_t name[64]; };

/* One command that visitors may send. */
struct door_command {
    uint8_t name[32];        /* upper case */
    uint32_t name_bytes;
    int32_t arity;           /* words with the name; negative: at least so many */
    uint32_t words_max;      /* 0: any number */
    uint32_t kind;
    uint32_t reads;
    uint32_t queueable;      /* between MULTI and EXEC */
    uint32_t courtesy;       /* which, of DOOR_COURTESY */
    uint32_t message_id, version;
    uint32_t key;            /* door_value of the first argument, which is the actor's key */
    uint32_t fields_count;
    struct door_field fields[16];
};

struct door_limits {
    uint32_t request_bytes_max;
    uint32_t output_bytes_pause;  /* no new turn while more wait to be sent */
    uint32_t execute_id, execute_version, read_id, read_version;
    uint32_t key_bytes;           /* of the actor that is the database */
    uint8_t key[16];
    uint64_t answer_ns;           /* the longest wait for the replica */
    uint64_t idle_ns;
};

struct gate;
/* Let the gate have visitors. 0, or -1: no memory. Once, before the first of them. */
int door_open(struct gate *gate, const struct door_limits *limits);
int door_add(struct gate *gate, const struct door_command *command);

#ifndef CFFI_CDEF
struct connection;
struct destination;

enum { DOOR_PARTS_MAX = 32, DOOR_COMMANDS_MAX = 512, DOOR_CLOSES_MAX = 4096, DOOR_NAME_MAX = 64 };
enum door_state { DOOR_SAID, DOOR_ASKED, DOOR_AGAIN };

struct door_part {
    uint8_t state, kind;
    uint16_t type;             /* WIRE_COMMAND or WIRE_QUERY */
    uint16_t message_id, version;
    uint16_t key_bytes;        /* an app's key stands before the body */
    uint32_t count;            /* commands of the cache in `bytes` */
    uint64_t request;
    uint8_t reopened;          /* its session had expired, and was opened again for it */
    struct text asked;         /* a key and a body, or the cache's commands */
    struct text said;          /* the answer, or as much of it as came */
};

struct visitor {
    uint8_t session[16];
    uint64_t id;               /* CLIENT ID */
    uint64_t command_next, query_next;
    uint64_t confirmed;        /* the answers to all commands up to here are there */
    uint64_t asked_ns;         /* when the turn went into the replica */
    uint8_t opened, ends, trusted;
    uint8_t speaks_3;          /* RESP3, as HELLO 3 asked: nil and maps are written in another way */
    uint8_t paused;            /* for what it has not read yet */
    uint8_t multi, aborted;    /* between MULTI and EXEC; something there was refused */
    uint8_t name_bytes, name[DOOR_NAME_MAX];
    uint32_t queued_count;
    struct text queued;        /* packed, between MULTI and EXEC */
    uint32_t parts_first, parts_count, asked_count;
    struct door_part parts[DOOR_PARTS_MAX];
};

struct door {
    struct door_limits limits;
    struct door_command *commands[DOOR_COMMANDS_MAX * 2];   /* open addressing by name */
    uint32_t commands_count;
    struct resp_request request;
    uint64_t visitors;         /* ever */
    uint8_t (*closes)[16];     /* sessions that are to be closed; past the limit they expire by themselves */
    uint32_t closes_count;
};

/* Begin and end with a connection. */
int door_welcome(struct gate *gate, struct connection *connection);
void door_forget(struct gate *gate, struct connection *connection);
void door_release(struct connection *connection);
void door_free(struct gate *gate);
/* Close the sessions of those that have gone, as far as there is room. */
void door_closes(struct gate *gate, struct destination *to);
/* Take what is in scratch. Returns the bytes taken. */
uint64_t door_take(struct gate *gate, struct connection *connection, uint64_t bytes, struct destination *to);
/* REPLY, ANSWER or REFUSED. */
void door_answer(struct gate *gate, struct connection *connection, const uint8_t *slot);
/* Whether more may be read from this visitor now. */
int door_is_listening(const struct gate *gate, const struct connection *connection);
int door_is_late(const struct gate *gate, const struct connection *connection);
/* Send what is answered up to the first that is not; a turn of which all is answered is over. */
void door_emit(struct gate *gate, struct connection *connection);
/* Something of its output was sent. */
void door_relieved(struct gate *gate, struct connection *connection);
#endif
