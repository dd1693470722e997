/* resp: see resp.h. */
#include "resp.h"
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { LINE_MAX = 32, INLINE_MAX = 16 * 1024, COUNT_MAX = 1024 * 1024, NESTING_MAX = 8 };

int resp_integer(const uint8_t *at, uint32_t length, int64_t *value)
{
    uint32_t digit = length && at[0] == '-';
    uint64_t sum = 0, limit = digit ? UINT64_C(1) << 63 : INT64_MAX;
    if (length == digit || length > 20 || (at[digit] == '0' && length > 1))
        return -1;
    for (uint32_t i = digit; i < length; i++) {
        if (at[i] < '0' || at[i] > '9')
            return -1;
        uint64_t next = at[i] - '0';
        if (sum > (limit - next) / 10)
            return -1;
        sum = sum * 10 + next;
    }
    *value = digit ? (int64_t)(0 - sum) : (int64_t)sum;
    return 0;
}

/* --- requests */

static int broken(struct resp_request *request, const char *why)
{
    snprintf(request->error, sizeof request->error, "Protocol error: %s", why);
    return RESP_BROKEN;
}

/* The number between `at` and its line break. `*next`: behind it. */
static int line_integer(struct resp_request *request, const uint8_t *bytes, uint64_t available, uint32_t at,
                        const char *too_long, const char *invalid, int64_t *value, uint32_t *next)
{
    uint64_t left = available - at;
    const uint8_t *end = memchr(bytes + at, '\r', left < LINE_MAX ? left : LINE_MAX);
    if (!end)
        return left >= LINE_MAX ? broken(request, too_long) : RESP_INCOMPLETE;
    if (end + 1 == bytes + available)
        return RESP_INCOMPLETE;
    if (resp_integer(bytes + at, (uint32_t)(end - bytes) - at, value) != 0)
        return broken(request, invalid);
    *next = (uint32_t)(end - bytes) + 2;
    return RESP_READY;
}

static int parse_array(struct resp_request *request, const uint8_t *bytes, uint64_t available)
{
    static const char *const LENGTH = "invalid multibulk length", *const BULK = "invalid bulk length";
    int64_t count, length;
    uint32_t at;
    int state = line_integer(request, bytes, available, 1, "too big mbulk count string", LENGTH, &count, &at);
    if (state != RESP_READY)
        return state;
    if (count > COUNT_MAX)
        return broken(request, LENGTH);
    request->count = 0;
    for (int64_t i = 0; i < count; i++) {
        if (at == available)
            return RESP_INCOMPLETE;
        if (bytes[at] != '$') {
            char why[32];
            snprintf(why, sizeof why, "expected '$', got '%c'", isprint(bytes[at]) ? bytes[at] : '?');
            return broken(request, why);
        }
        state = line_integer(request, bytes, available, at + 1, "too big bulk count string", BULK, &length, &at);
        if (state != RESP_READY)
            return state;
        if (length < 0 || length > (int64_t)request->request_bytes_max)
            return broken(request, BULK);
        if (i == (int64_t)request->words_max || at + length + 2 > (int64_t)request->request_bytes_max)
            return broken(request, "the request is too large");
        if (at + (uint64_t)length + 2 > available)
            return RESP_INCOMPLETE;
        request->words[i] = (struct resp_word){bytes + at, (uint32_t)length};
        request->count++;
        at += (uint32_t)length + 2;
    }
    request->bytes = at;
    return RESP_READY;
}

static int hex_of(uint8_t digit)
{
    return isdigit(digit) ? digit - '0' : isxdigit(digit) ? tolower(digit) - 'a' + 10 : -1;
}

/* One character behind a backslash between double quotes. Returns how many bytes it takes. */
static uint32_t unescape(const uint8_t *at, const uint8_t *end, uint8_t *to)
{
    if (at[0] == 'x' && end - at > 2 && hex_of(at[1]) >= 0 && hex_of(at[2]) >= 0) {
        *to = (uint8_t)(hex_of(at[1]) * 16 + hex_of(at[2]));
        return 3;
    }
    const char *const from = "nrtba", *const into = "\n\r\t\b\a", *found = at[0] ? strchr(from, at[0]) : NULL;
    *to = found ? (uint8_t)into[found - from] : at[0];
    return 1;
}

/* A quoted or bare word that begins at `at`. Returns its end; NULL for quotes that do not close. */
static const uint8_t *inline_word(const uint8_t *at, const uint8_t *end, uint8_t **to)
{
    uint8_t quote = 0;
    while (at < end) {
        if (!quote) {
            if (isspace(*at))
                return at;
            if (*at == '"' || *at == '\'')
                quote = *at++;
            else
                *(*to)++ = *at++;
        } else if (*at == quote) {
            at++;
            return at == end || isspace(*at) ? at : NULL;
        } else if (quote == '"' && *at == '\\' && at + 1 < end) {
            at += 1 + unescape(at + 1, end, (*to)++);
        } else if (quote == '\'' && *at == '\\' && at + 1 < end && at[1] == '\'') {
            *(*to)++ = '\'';
            at += 2;
        } else {
            *(*to)++ = *at++;
        }
    }
    return quote ? NULL : at;
}

static int parse_inline(struct resp_request *request, const uint8_t *bytes, uint64_t available)
{
    /* Packed, a word of one letter takes three times as much. */
    uint64_t longest = request->request_bytes_max / 3 < INLINE_MAX ? request->request_bytes_max / 3 : INLINE_MAX;
    const uint8_t *end = memchr(bytes, '\n', available < longest ? available : longest);
    if (!end)
        return available >= longest ? broken(request, "too big inline request") : RESP_INCOMPLETE;
    request->count = 0;
    request->bytes = (uint32_t)(end - bytes) + 1;
    uint8_t *to = request->arena;
    for (const uint8_t *at = bytes;;) {
        while (at < end && isspace(*at))
            at++;
        if (at == end)
            return RESP_READY;
        uint8_t *start = to;
        at = inline_word(at, end, &to);
        if (!at)
            return broken(request, "unbalanced quotes in request");
        if (request->count == request->words_max)
            return broken(request, "the request is too large");
        request->words[request->count++] = (struct resp_word){start, (uint32_t)(to - start)};
    }
}

int resp_parse(struct resp_request *request, const uint8_t *bytes, uint64_t available)
{
    if (available == 0)
        return RESP_INCOMPLETE;
    return bytes[0] == '*' ? parse_array(request, bytes, available) : parse_inline(request, bytes, available);
}

/* --- texts */

uint8_t *text_room(struct text *text, uint32_t bytes)
{
    if (text->failed)
        return NULL;
    if (text->capacity - text->length < bytes) {
        uint32_t capacity = text->capacity ? text->capacity : 128;
        while (capacity - text->length < bytes)
            capacity *= 2;
        uint8_t *grown = realloc(text->at, capacity);
        if (!grown) {
            text->failed = 1;
            return NULL;
        }
        text->at = grown;
        text->capacity = capacity;
    }
    text->length += bytes;
    return text->at + text->length - bytes;
}

void text_add(struct text *text, const void *bytes, uint32_t length)
{
    uint8_t *at = text_room(text, length);
    if (at && length)
        memcpy(at, bytes, length);
}

void text_print(struct text *text, const char *format, ...)
{
    char line[512];
    va_list values;
    va_start(values, format);
    int length = vsnprintf(line, sizeof line, format, values);
    va_end(values);
    text_add(text, line, length < (int)sizeof line ? (uint32_t)length : (uint32_t)sizeof line - 1);
}

void text_bulk(struct text *text, const void *bytes, uint32_t length)
{
    text_print(text, "$%u\r\n", length);
    text_add(text, bytes, length);
    text_add(text, "\r\n", 2);
}

void text_free(struct text *text)
{
    free(text->at);
    *text = (struct text){0};
}

/* --- msgpack out */

static void pack_head(struct text *text, uint8_t first, uint64_t value, int bytes)
{
    uint8_t *at = text_room(text, 1 + (uint32_t)bytes);
    if (!at)
        return;
    *at = first;
    for (int i = bytes; i > 0; i--, value >>= 8)
        at[i] = (uint8_t)value;
}

void pack_array(struct text *text, uint32_t count)
{
    if (count < 16)
        pack_head(text, (uint8_t)(0x90 | count), 0, 0);
    else if (count < 65536)
        pack_head(text, 0xdc, count, 2);
    else
        pack_head(text, 0xdd, count, 4);
}

void pack_map(struct text *text, uint32_t count)
{
    if (count < 16)
        pack_head(text, (uint8_t)(0x80 | count), 0, 0);
    else
        pack_head(text, 0xde, count, 2);
}

void pack_text(struct text *text, const void *bytes, uint32_t length)
{
    if (length < 32)
        pack_head(text, (uint8_t)(0xa0 | length), 0, 0);
    else if (length < 256)
        pack_head(text, 0xd9, length, 1);
    else if (length < 65536)
        pack_head(text, 0xda, length, 2);
    else
        pack_head(text, 0xdb, length, 4);
    text_add(text, bytes, length);
}

void pack_binary(struct text *text, const void *bytes, uint32_t length)
{
    if (length < 256)
        pack_head(text, 0xc4, length, 1);
    else if (length < 65536)
        pack_head(text, 0xc5, length, 2);
    else
        pack_head(text, 0xc6, length, 4);
    text_add(text, bytes, length);
}

void pack_integer(struct text *text, int64_t value)
{
    if (value >= -32 && value < 128)
        pack_head(text, (uint8_t)value, 0, 0);
    else
        pack_head(text, 0xd3, (uint64_t)value, 8);
}

void pack_real(struct text *text, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, 8);
    pack_head(text, 0xcb, bits, 8);
}

/* --- msgpack in */

static uint64_t big_endian(const uint8_t *at, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++)
        value = value << 8 | at[i];
    return value;
}

enum kind { KIND_NIL, KIND_FALSE, KIND_TRUE, KIND_UNSIGNED, KIND_SIGNED, KIND_REAL, KIND_BYTES, KIND_ARRAY, KIND_MAP, KIND_BAD };

/* What begins here: its kind, its value or count, and the bytes of its head. */
static enum kind head_of(const uint8_t *at, uint64_t available, uint64_t *value, uint32_t *head)
{
    static const struct { uint8_t first, kind, bytes; } LONG[] = {
        {0xc4, KIND_BYTES, 1}, {0xc5, KIND_BYTES, 2}, {0xc6, KIND_BYTES, 4}, {0xd9, KIND_BYTES, 1},
        {0xda, KIND_BYTES, 2}, {0xdb, KIND_BYTES, 4}, {0xdc, KIND_ARRAY, 2}, {0xdd, KIND_ARRAY, 4},
        {0xde, KIND_MAP, 2}, {0xdf, KIND_MAP, 4}, {0xcc, KIND_UNSIGNED, 1}, {0xcd, KIND_UNSIGNED, 2},
        {0xce, KIND_UNSIGNED, 4}, {0xcf, KIND_UNSIGNED, 8}, {0xd0, KIND_SIGNED, 1}, {0xd1, KIND_SIGNED, 2},
        {0xd2, KIND_SIGNED, 4}, {0xd3, KIND_SIGNED, 8}, {0xcb, KIND_REAL, 8}, {0xc0, KIND_NIL, 0},
        {0xc2, KIND_FALSE, 0}, {0xc3, KIND_TRUE, 0},
    };
    if (available == 0)
        return KIND_BAD;
    uint8_t first = at[0];
    *head = 1;
    if (first < 0x80 || first >= 0xe0) {
        *value = (uint64_t)(int64_t)(int8_t)first;
        return first < 0x80 ? KIND_UNSIGNED : KIND_SIGNED;
    }
    if (first < 0xc0) {
        *value = first & (first < 0xa0 ? 0x0f : 0x1f);
        return first < 0x90 ? KIND_MAP : first < 0xa0 ? KIND_ARRAY : KIND_BYTES;
    }
    for (size_t i = 0; i < sizeof LONG / sizeof *LONG; i++) {
        if (LONG[i].first != first)
            continue;
        if (available <= LONG[i].bytes)
            return KIND_BAD;
        *head = 1u + LONG[i].bytes;
        *value = big_endian(at + 1, LONG[i].bytes);
        if (LONG[i].kind == KIND_SIGNED && LONG[i].bytes < 8 && *value >> (8 * LONG[i].bytes - 1))
            *value |= UINT64_MAX << (8 * LONG[i].bytes);
        return LONG[i].kind;
    }
    return KIND_BAD;
}

static int unpack(enum kind wanted, const uint8_t *at, uint64_t available, uint64_t *value, uint32_t *head)
{
    return head_of(at, available, value, head) == wanted ? 0 : -1;
}

int unpack_array(const uint8_t *at, uint64_t available, uint32_t *count, uint32_t *head)
{
    uint64_t value = 0;
    int failed = unpack(KIND_ARRAY, at, available, &value, head);
    *count = (uint32_t)value;
    return failed;
}

int unpack_binary(const uint8_t *at, uint64_t available, uint32_t *length, uint32_t *head)
{
    uint64_t value = 0;
    int failed = unpack(KIND_BYTES, at, available, &value, head);
    *length = (uint32_t)value;
    return failed || value > available - *head ? -1 : 0;
}

int unpack_unsigned(const uint8_t *at, uint64_t available, uint64_t *value, uint32_t *head)
{
    return unpack(KIND_UNSIGNED, at, available, value, head);
}

static int64_t reply_some(struct text *text, const uint8_t *at, uint64_t available, int depth);

/* `count` values one after the other; with `skips`, every second only: a map of one field without its name. */
static int64_t reply_many(struct text *text, const uint8_t *at, uint64_t available, uint64_t count, int skips, int depth)
{
    struct text dropped = {.failed = 1};
    uint64_t used = 0;
    for (uint64_t i = 0; i < count; i++) {
        struct text *to = skips && i % 2 == 0 ? &dropped : text;
        int64_t bytes = reply_some(to, at + used, available - used, depth + 1);
        if (bytes < 0)
            return -1;
        used += (uint64_t)bytes;
    }
    return (int64_t)used;
}

static int64_t reply_some(struct text *text, const uint8_t *at, uint64_t available, int depth)
{
    uint64_t value = 0;
    uint32_t head = 0;
    double real;
    if (depth > NESTING_MAX)
        return -1;
    enum kind kind = head_of(at, available, &value, &head);
    int64_t more = 0;
    char digits[40];
    switch (kind) {
    case KIND_NIL:
        text_add(text, "$-1\r\n", 5);
        break;
    case KIND_FALSE:
    case KIND_TRUE:
        text_print(text, ":%d\r\n", kind == KIND_TRUE);
        break;
    case KIND_UNSIGNED:
        text_print(text, ":%llu\r\n", (unsigned long long)value);
        break;
    case KIND_SIGNED:
        text_print(text, ":%lld\r\n", (long long)value);
        break;
    case KIND_REAL:
        memcpy(&real, &value, 8);
        text_bulk(text, digits, (uint32_t)snprintf(digits, sizeof digits, "%.17g", real));
        break;
    case KIND_BYTES:
        if (value > available - head)
            return -1;
        text_bulk(text, at + head, (uint32_t)value);
        more = (int64_t)value;
        break;
    case KIND_ARRAY:
        text_print(text, "*%llu\r\n", (unsigned long long)value);
        more = reply_many(text, at + head, available - head, value, 0, depth);
        break;
    case KIND_MAP:
        if (value != 1)
            text_print(text, "*%llu\r\n", 2 * (unsigned long long)value);
        more = reply_many(text, at + head, available - head, 2 * value, value == 1, depth);
        break;
    default:
        return -1;
    }
    return more < 0 ? -1 : (int64_t)head + more;
}

int64_t resp_reply(struct text *text, const uint8_t *at, uint64_t available)
{
    return reply_some(text, at, available, 0);
}

/* --- RESP3 */

int64_t resp_lift(struct text *text, const uint8_t *at, uint64_t available, int maps)
{
    const uint8_t *end = available > 2 ? memchr(at, '\n', available) : NULL;
    int64_t number = 0;
    if (!end || (strchr("$*", at[0]) && resp_integer(at + 1, (uint32_t)(end - at) - 2, &number) != 0))
        return -1;
    int64_t used = end + 1 - at;
    if (at[0] == '$' && number < 0) {
        text_add(text, "_\r\n", 3);
        return used;
    }
    if (at[0] == '*' && maps && number % 2 == 0)
        text_print(text, "%%%lld\r\n", (long long)number / 2);
    else
        text_add(text, at, (uint32_t)used);
    if (at[0] == '$') {
        if (used + number + 2 > (int64_t)available)
            return -1;
        text_add(text, at + used, (uint32_t)number + 2);
        return used + number + 2;
    }
    for (int64_t i = 0; at[0] == '*' && i < number; i++) {
        int64_t bytes = resp_lift(text, at + used, available - (uint64_t)used, 0);
        if (bytes < 0)
            return -1;
        used += bytes;
    }
    return used;
}
