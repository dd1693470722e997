/* courtesies: see courtesies.h. */
#include "courtesies.h"
#include "gate.h"
#include <ctype.h>

static const char *const SERVER = "7.0.0"; /* The commands are those of this version. */

int word_is(const struct resp_word *word, const char *text)
{
    uint32_t length = (uint32_t)strlen(text);
    if (word->length != length)
        return 0;
    for (uint32_t i = 0; i < length; i++)
        if (toupper(word->at[i]) != text[i])
            return 0;
    return 1;
}

void text_quote(struct text *text, const uint8_t *bytes, uint32_t length, uint32_t length_max, int lower)
{
    for (uint32_t i = 0; i < length && i < length_max; i++) {
        uint8_t byte = bytes[i] == '\r' || bytes[i] == '\n' ? ' ' : bytes[i];
        if (lower)
            byte = (uint8_t)tolower(byte);
        text_add(text, &byte, 1);
    }
}

void wrong_arity(struct text *answer, const struct resp_word *name)
{
    text_print(answer, "-ERR wrong number of arguments for '");
    text_quote(answer, name->at, name->length, 128, 1);
    text_print(answer, "' command\r\n");
}

static void bulk(struct text *answer, const char *text)
{
    text_bulk(answer, text, (uint32_t)strlen(text));
}

static void ping(const struct resp_request *request, struct text *answer)
{
    if (request->count > 2)
        wrong_arity(answer, request->words);
    else if (request->count == 2)
        text_bulk(answer, request->words[1].at, request->words[1].length);
    else
        text_print(answer, "+PONG\r\n");
}

static void select_database(const struct resp_request *request, struct text *answer)
{
    int64_t number;
    if (resp_integer(request->words[1].at, request->words[1].length, &number) != 0)
        text_print(answer, "-ERR value is not an integer or out of range\r\n");
    else
        text_print(answer, number ? "-ERR DB index is out of range\r\n" : "+OK\r\n");
}

/* A name as CLIENT LIST could show it. */
static int set_name(struct visitor *visitor, const struct resp_word *name, struct text *answer)
{
    for (uint32_t i = 0; i < name->length; i++) {
        if (name->at[i] >= '!' && name->at[i] <= '~')
            continue;
        text_print(answer, "-ERR Client names cannot contain spaces, newlines or special characters.\r\n");
        return -1;
    }
    if (name->length > DOOR_NAME_MAX) {
        text_print(answer, "-ERR Client names have at most %d characters.\r\n", DOOR_NAME_MAX);
        return -1;
    }
    visitor->name_bytes = (uint8_t)name->length;
    memcpy(visitor->name, name->at, name->length);
    return 0;
}

static int may_enter(struct gate *gate, struct visitor *visitor, const struct resp_word *password, struct text *answer)
{
    if (gate_has_token(gate, password->at, password->length)) {
        visitor->trusted = 1;
        return 1;
    }
    text_print(answer, "-WRONGPASS invalid username-password pair or user is disabled.\r\n");
    return 0;
}

static void authenticate(struct gate *gate, struct visitor *visitor, const struct resp_request *request,
                         struct text *answer)
{
    if (request->count > 3)
        text_print(answer, "-ERR syntax error\r\n");
    else if (!gate->limits.tokens_count)
        text_print(answer, "-ERR AUTH <password> called without any password configured for the default user. "
                           "Are you sure your configuration is correct?\r\n");
    else if (may_enter(gate, visitor, &request->words[request->count - 1], answer))
        text_print(answer, "+OK\r\n");
}

/* HELLO [2 | 3 [AUTH user password] [SETNAME name]] */
static void hello(struct gate *gate, struct visitor *visitor, const struct resp_request *request, struct text *answer)
{
    const struct resp_word *words = request->words;
    int64_t version = visitor->speaks_3 ? 3 : 2;
    if (request->count > 1 && resp_integer(words[1].at, words[1].length, &version) != 0) {
        text_print(answer, "-ERR Protocol version is not an integer or out of range\r\n");
        return;
    }
    if (version != 2 && version != 3) {
        text_print(answer, "-NOPROTO unsupported protocol version\r\n");
        return;
    }
    for (uint32_t at = 2; at < request->count;) {
        if (word_is(&words[at], "AUTH") && at + 2 < request->count) {
            if (gate->limits.tokens_count && !may_enter(gate, visitor, &words[at + 2], answer))
                return;
            at += 3;
        } else if (word_is(&words[at], "SETNAME") && at + 1 < request->count) {
            if (set_name(visitor, &words[at + 1], answer) != 0)
                return;
            at += 2;
        } else {
            text_print(answer, "-ERR Syntax error in HELLO option '");
            text_quote(answer, words[at].at, words[at].length, 128, 1);
            text_print(answer, "'\r\n");
            return;
        }
    }
    if (!visitor->trusted) {
        text_print(answer, "-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO "
                           "<proto> AUTH <user> <pass> option can be used to authenticate the client and select the "
                           "RESP protocol version at the same time\r\n");
        return;
    }
    visitor->speaks_3 = version == 3;
    text_print(answer, version == 3 ? "%%7\r\n" : "*14\r\n");
    bulk(answer, "server"), bulk(answer, "leftfold");
    bulk(answer, "version"), bulk(answer, SERVER);
    bulk(answer, "proto"), text_print(answer, ":%d\r\n", (int)version);
    bulk(answer, "id"), text_print(answer, ":%llu\r\n", (unsigned long long)visitor->id);
    bulk(answer, "mode"), bulk(answer, "standalone");
    bulk(answer, "role"), bulk(answer, "master");
    bulk(answer, "modules"), text_print(answer, "*0\r\n");
}

static void unknown_subcommand(struct text *answer, const struct resp_request *request, const char *command)
{
    text_print(answer, "-ERR unknown subcommand '");
    text_quote(answer, request->words[1].at, request->words[1].length, 128, 0);
    text_print(answer, "'. Try %s HELP.\r\n", command);
}

static void client(struct visitor *visitor, const struct resp_request *request, struct text *answer)
{
    const struct resp_word *words = request->words;
    if (word_is(&words[1], "SETNAME") && request->count == 3) {
        if (set_name(visitor, &words[2], answer) == 0)
            text_print(answer, "+OK\r\n");
    } else if (word_is(&words[1], "GETNAME") && request->count == 2) {
        if (visitor->name_bytes)
            text_bulk(answer, visitor->name, visitor->name_bytes);
        else
            text_print(answer, visitor->speaks_3 ? "_\r\n" : "$-1\r\n");
    } else if (word_is(&words[1], "ID") && request->count == 2) {
        text_print(answer, ":%llu\r\n", (unsigned long long)visitor->id);
    } else if (word_is(&words[1], "SETINFO") && request->count == 4) {
        text_print(answer, "+OK\r\n");
    } else {
        unknown_subcommand(answer, request, "CLIENT");
    }
}

static void command(const struct gate *gate, const struct visitor *visitor, const struct resp_request *request,
                    struct text *answer)
{
    if (request->count == 2 && visitor->speaks_3 && word_is(&request->words[1], "DOCS"))
        text_print(answer, "%%0\r\n");
    else if (request->count == 1 || word_is(&request->words[1], "DOCS") || word_is(&request->words[1], "INFO"))
        text_print(answer, "*0\r\n");
    else if (word_is(&request->words[1], "COUNT"))
        text_print(answer, ":%u\r\n", gate->door->commands_count);
    else
        unknown_subcommand(answer, request, "COMMAND");
}

/* Only what redis-benchmark and its like ask before they start. */
static void config(const struct visitor *visitor, const struct resp_request *request, struct text *answer)
{
    static const char *const KNOWN[][2] = {
        {"save", ""}, {"appendonly", "yes"}, {"appendfsync", "always"}, {"databases", "1"}};
    char upper[16];
    uint32_t found[4], count = 0;
    if (!word_is(&request->words[1], "GET")) {
        unknown_subcommand(answer, request, "CONFIG");
        return;
    }
    for (uint32_t known = 0; known < 4; known++) {
        size_t length = strlen(KNOWN[known][0]);
        for (size_t i = 0; i <= length; i++)
            upper[i] = (char)toupper(KNOWN[known][0][i]);
        for (uint32_t at = 2; at < request->count; at++) {
            if (!word_is(&request->words[at], upper) && !word_is(&request->words[at], "*"))
                continue;
            found[count++] = known;
            break;
        }
    }
    text_print(answer, visitor->speaks_3 ? "%%%u\r\n" : "*%u\r\n", visitor->speaks_3 ? count : 2 * count);
    for (uint32_t i = 0; i < count; i++) {
        bulk(answer, KNOWN[found[i]][0]);
        bulk(answer, KNOWN[found[i]][1]);
    }
}

static void info(const struct gate *gate, struct text *answer)
{
    struct text lines = {0};
    text_print(&lines, "# Server\r\nredis_version:%s\r\nredis_mode:standalone\r\nserver_name:leftfold\r\n\r\n", SERVER);
    text_print(&lines, "# Clients\r\nconnected_clients:%llu\r\n\r\n", (unsigned long long)gate->report.connections);
    text_print(&lines, "# Persistence\r\nloading:0\r\naof_enabled:1\r\n\r\n# Replication\r\nrole:master\r\n");
    text_bulk(answer, lines.at, lines.length);
    answer->failed |= lines.failed;
    text_free(&lines);
}

void courtesy_answer(struct gate *gate, struct visitor *visitor, uint32_t courtesy, struct text *answer)
{
    const struct resp_request *request = &gate->door->request;
    switch ((enum courtesy)courtesy) {
    case COURTESY_PING: ping(request, answer); break;
    case COURTESY_ECHO: text_bulk(answer, request->words[1].at, request->words[1].length); break;
    case COURTESY_SELECT: select_database(request, answer); break;
    case COURTESY_HELLO: hello(gate, visitor, request, answer); break;
    case COURTESY_CLIENT: client(visitor, request, answer); break;
    case COURTESY_COMMAND: command(gate, visitor, request, answer); break;
    case COURTESY_CONFIG: config(visitor, request, answer); break;
    case COURTESY_INFO: info(gate, answer); break;
    case COURTESY_AUTH: authenticate(gate, visitor, request, answer); break;
    case COURTESY_QUIT:
        visitor->ends = 1;
        text_print(answer, "+OK\r\n");
        break;
    case COURTESY_MULTI:
        if (visitor->multi) {
            text_print(answer, "-ERR MULTI calls can not be nested\r\n");
            break;
        }
        visitor->multi = 1;
        text_print(answer, "+OK\r\n");
        break;
    case COURTESY_DISCARD:
        text_print(answer, visitor->multi ? "+OK\r\n" : "-ERR DISCARD without MULTI\r\n");
        visitor->multi = visitor->aborted = 0;
        visitor->queued_count = visitor->queued.length = 0;
        break;
    case COURTESY_EXEC: break; /* the door's */
    }
}
