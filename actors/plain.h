/* plain: messages whose fields are numbers, texts and bytes, read and written without msgspec; see plain.py.
 *
 * The bytes are those of msgspec, and so are the values. What is unusual in any way (another order of fields, one
 * that is missing, a value of another type, text that is no UTF-8, a message of some size) is left to msgspec, which
 * then decides, and says what is wrong: these functions only say that they did not do it.
 */
#pragma once
#include "fold.h"

enum { PLAIN_FIELDS_MAX = 15, PLAIN_TEXT_BYTES = 512 };

/* What a field may hold: a set of these. */
enum { PLAIN_NONE = 1, PLAIN_BOOL = 2, PLAIN_INT = 4, PLAIN_FLOAT = 8, PLAIN_STR = 16, PLAIN_BYTES = 32 };

struct plain_field {
    uint8_t name[32]; /* as in the map: a msgpack str of at most 31 bytes, with its head */
    size_t name_bytes;
    size_t offset; /* of the value in the object */
    unsigned int holds;
};

struct plain {
    PyObject_HEAD
    PyTypeObject *type;
    size_t count;
    struct plain_field fields[PLAIN_FIELDS_MAX];
};

extern PyTypeObject *plain_type;
extern PyType_Spec plain_spec;

/* The message with this body; NULL: it is left to msgspec, or an exception is set. */
PyObject *plain_decode(const struct plain *plain, const uint8_t *body, size_t length);
/* Write the body of a message of this class; its length, 0: it is left to msgspec. Sets no exception. */
size_t plain_encode(const struct plain *plain, PyObject *message, uint8_t text[PLAIN_TEXT_BYTES]);
