/* commands: what the loop over commands (commands.c) and the road of one command (unit.c) share. */
#pragma once
#include "plain.h"

/* A message that clients may send: where it goes. All of it is made once, with the App. */
struct lane {
    uint16_t id, version, actor_type, row; /* row: of handlers */
    PyObject *decode, *instances, *call, *replies, *actor;
    const struct plain *plain; /* reads the message; NULL: only `decode` does */
    PyObject *reply_plains;    /* what writes replies, by class */
    PyTypeObject *reply_type;        /* the class of the last reply, one of `replies`; NULL: none yet */
    uint16_t reply_id;               /* its id */
    const struct plain *reply_plain; /* and what writes it; NULL: only `encode` does */
};

enum { LANE_HINTS = 1024 };

struct commands {
    PyObject_HEAD
    /* What `Units` has, see unit.py. */
    PyObject *units, *context, *outputs, *quarantined, *encode;
    PyObject *run_command, *refuse_body, *end_command, *wrong_reply, *commit;
    PyObject *handlers; /* a struct handlers */
    PyObject *control; /* takes what is not a command */
    PyObject *refusals[STATUSES];
    PyObject *name_actor, *name_key;
    struct sessions_object *sessions;
    struct events *events;
    struct slots *slots;
    struct lane *lanes;
    size_t lanes_count;
    uint16_t lane_of[LANE_HINTS]; /* by message id modulo this, plus one; 0: look through all */
    uint8_t *versions;            /* by message id; NULL: every message is of version 0 */
    Py_buffer position;           /* index, ordinal, message id: three words, which others look at */
    uint64_t window, replies_bytes_max, reply_bytes_max;
    int slow;                    /* every command in Python, for strict mode and for whoever watches */
    int running;                 /* an entry is being applied */
    const struct lane *set_lane; /* whose actor and ... */
    PyObject *set_key;           /* ... which key the context holds; NULL: unknown */
};

/* Where one command stands while it is applied. */
struct unit {
    const struct command *command;
    const uint8_t *key, *body;
    size_t body_bytes;
    struct session *session;
    uint64_t index;
    uint32_t ordinal;
    int64_t time_ns, clock_ns;
};

/* unit.c. Each returns 0 with an exception that goes to the caller of `apply`. */

/* Run the command, and answer it. */
int run(struct commands *self, const struct unit *unit);
/* The reply to a command that was applied: it goes out, and is kept. */
int answer(struct commands *self, const struct unit *unit, enum status status, uint16_t id, const uint8_t *text,
           size_t text_bytes);
/* The same with the fixed text of this status. */
int answer_fixed(struct commands *self, const struct unit *unit, enum status status);
/* The reply to a request that changes nothing: it goes out, and nothing is kept. */
int refuse(struct commands *self, const struct unit *unit, enum status status);
