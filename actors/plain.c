/* plain: see plain.h. Values are read from and written to the places that the class gave its slots, which is what
 * its attributes do; the object is made as msgspec makes it, without __init__.
 */
#include "plain.h"

#include <structmember.h>

static PyObject **place_of(PyObject *message, const struct plain_field *field)
{
    return (PyObject **)((char *)message + field->offset);
}

/* Reading */

struct reader {
    const uint8_t *at, *end;
};

/* The next bytes, or NULL if there are not so many. */
static const uint8_t *next(struct reader *reader, size_t bytes)
{
    if ((size_t)(reader->end - reader->at) < bytes)
        return NULL;
    reader->at += bytes;
    return reader->at - bytes;
}

/* A big-endian number. */
static int next_number(struct reader *reader, size_t bytes, uint64_t *number)
{
    const uint8_t *found = next(reader, bytes);
    if (!found)
        return 0;
    *number = 0;
    for (size_t at = 0; at < bytes; at++)
        *number = *number << 8 | found[at];
    return 1;
}

static PyObject *read_int(struct reader *reader, uint8_t head)
{
    uint64_t number;
    if (head <= 0x7f)
        return PyLong_FromLong(head);
    if (head >= 0xe0)
        return PyLong_FromLong((int8_t)head);
    if (head >= 0xcc && head <= 0xcf)
        return next_number(reader, (size_t)1 << (head - 0xcc), &number) ? PyLong_FromUnsignedLongLong(number) : NULL;
    if (head < 0xd0 || head > 0xd3)
        return NULL;
    size_t bytes = (size_t)1 << (head - 0xd0);
    if (!next_number(reader, bytes, &number))
        return NULL;
    unsigned int shift = 64 - 8 * (unsigned int)bytes;
    return PyLong_FromLongLong((int64_t)(number << shift) >> shift);
}

static PyObject *read_float(struct reader *reader)
{
    uint64_t number;
    double value;
    if (!next_number(reader, 8, &number))
        return NULL;
    memcpy(&value, &number, sizeof value);
    return PyFloat_FromDouble(value);
}

/* The length of what one of three heads in a row begins, and where it lies. */
static const uint8_t *next_run(struct reader *reader, unsigned int size_class, uint64_t *length)
{
    if (!next_number(reader, (size_t)1 << size_class, length))
        return NULL;
    return next(reader, (size_t)*length);
}

static PyObject *read_str(struct reader *reader, uint8_t head)
{
    uint64_t length = head & 0x1f;
    const uint8_t *text = NULL;
    if (head >> 5 == 5)
        text = next(reader, (size_t)length);
    else if (head >= 0xd9 && head <= 0xdb)
        text = next_run(reader, head - 0xd9u, &length);
    return text ? PyUnicode_DecodeUTF8((const char *)text, (Py_ssize_t)length, NULL) : NULL;
}

static PyObject *read_bytes(struct reader *reader, uint8_t head)
{
    uint64_t length;
    const uint8_t *found = head >= 0xc4 && head <= 0xc6 ? next_run(reader, head - 0xc4u, &length) : NULL;
    return found ? bytes_from(found, (size_t)length) : NULL;
}

static PyObject *read_value(struct reader *reader, unsigned int holds)
{
    const uint8_t *head_at = next(reader, 1);
    if (!head_at)
        return NULL;
    uint8_t head = *head_at;
    if (head == 0xc0)
        return holds & PLAIN_NONE ? Py_NewRef(Py_None) : NULL;
    if (head == 0xc2 || head == 0xc3)
        return holds & PLAIN_BOOL ? PyBool_FromLong(head & 1) : NULL;
    if (head == 0xcb)
        return holds & PLAIN_FLOAT ? read_float(reader) : NULL;
    PyObject *found = NULL;
    if (holds & PLAIN_STR)
        found = read_str(reader, head);
    if (!found && holds & PLAIN_INT)
        found = read_int(reader, head);
    if (!found && holds & PLAIN_BYTES)
        found = read_bytes(reader, head);
    return found;
}

static int read_fields(const struct plain *plain, struct reader *reader, PyObject *message)
{
    const uint8_t *head = next(reader, 1);
    if (!head || *head != (0x80 | plain->count))
        return 0;
    for (size_t at = 0; at < plain->count; at++) {
        const struct plain_field *field = &plain->fields[at];
        const uint8_t *name = next(reader, field->name_bytes);
        if (!name || memcmp(name, field->name, field->name_bytes) != 0)
            return 0;
        if (!(*place_of(message, field) = read_value(reader, field->holds)))
            return 0;
    }
    return reader->at == reader->end;
}

PyObject *plain_decode(const struct plain *plain, const uint8_t *body, size_t length)
{
    struct reader reader = {body, body + length};
    PyObject *message = PyType_GenericAlloc(plain->type, 0);
    if (message && !read_fields(plain, &reader, message)) {
        Py_CLEAR(message); /* with the values that it has */
        if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_MemoryError))
            PyErr_Clear();
    }
    return message;
}

/* Writing */

/* Where the next bytes go; NULL: there is no room for them. */
static uint8_t *room(uint8_t **at, const uint8_t *end, size_t bytes)
{
    if ((size_t)(end - *at) < bytes)
        return NULL;
    *at += bytes;
    return *at - bytes;
}

static int write_number(uint8_t **at, const uint8_t *end, uint8_t head, uint64_t number, size_t bytes)
{
    uint8_t *place = room(at, end, 1 + bytes);
    if (!place)
        return 0;
    place[0] = head;
    for (size_t byte = 0; byte < bytes; byte++)
        place[bytes - byte] = (uint8_t)(number >> 8 * byte);
    return 1;
}

static int write_positive(uint8_t **at, const uint8_t *end, uint64_t number)
{
    if (number < 1 << 7)
        return write_number(at, end, (uint8_t)number, 0, 0);
    if (number <= UINT8_MAX)
        return write_number(at, end, 0xcc, number, 1);
    if (number <= UINT16_MAX)
        return write_number(at, end, 0xcd, number, 2);
    if (number <= UINT32_MAX)
        return write_number(at, end, 0xce, number, 4);
    return write_number(at, end, 0xcf, number, 8);
}

static int write_negative(uint8_t **at, const uint8_t *end, int64_t number)
{
    if (number >= -32)
        return write_number(at, end, (uint8_t)number, 0, 0);
    if (number >= INT8_MIN)
        return write_number(at, end, 0xd0, (uint64_t)number, 1);
    if (number >= INT16_MIN)
        return write_number(at, end, 0xd1, (uint64_t)number, 2);
    if (number >= INT32_MIN)
        return write_number(at, end, 0xd2, (uint64_t)number, 4);
    return write_number(at, end, 0xd3, (uint64_t)number, 8);
}

static int write_int(uint8_t **at, const uint8_t *end, PyObject *value)
{
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow) /* up to 64 bits without sign msgspec writes, and beyond it says what is wrong */
        return 0;
    return number < 0 ? write_negative(at, end, number) : write_positive(at, end, (uint64_t)number);
}

static int write_run(uint8_t **at, const uint8_t *end, const uint8_t *run, size_t length)
{
    uint8_t *place = room(at, end, length);
    if (place)
        memcpy(place, run, length);
    return place != NULL;
}

static int write_str(uint8_t **at, const uint8_t *end, PyObject *value)
{
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(value, &length);
    if (!text) {
        PyErr_Clear(); /* msgspec will meet the same, and says so */
        return 0;
    }
    int has_head = length < 32          ? write_number(at, end, (uint8_t)(0xa0 | length), 0, 0)
                   : length <= UINT8_MAX ? write_number(at, end, 0xd9, (uint64_t)length, 1)
                                         : write_number(at, end, 0xda, (uint64_t)length, 2);
    return has_head && write_run(at, end, (const uint8_t *)text, (size_t)length);
}

static int write_bytes(uint8_t **at, const uint8_t *end, PyObject *value)
{
    Py_ssize_t length;
    const uint8_t *bytes = bytes_of(value, &length);
    int has_head = length <= UINT8_MAX ? write_number(at, end, 0xc4, (uint64_t)length, 1)
                                       : write_number(at, end, 0xc5, (uint64_t)length, 2);
    return has_head && write_run(at, end, bytes, (size_t)length);
}

static int write_float(uint8_t **at, const uint8_t *end, PyObject *value)
{
    double number = PyFloat_AsDouble(value);
    uint64_t bits;
    memcpy(&bits, &number, sizeof bits);
    return write_number(at, end, 0xcb, bits, 8);
}

/* By the class that the value has, as msgspec does, and not by what its field promises. */
static int write_value(uint8_t **at, const uint8_t *end, PyObject *value)
{
    if (!value)
        return 0;
    if (PyLong_CheckExact(value))
        return write_int(at, end, value);
    if (PyUnicode_CheckExact(value))
        return write_str(at, end, value);
    if (value == Py_None)
        return write_number(at, end, 0xc0, 0, 0);
    if (value == Py_True || value == Py_False)
        return write_number(at, end, value == Py_True ? 0xc3 : 0xc2, 0, 0);
    if (PyFloat_CheckExact(value))
        return write_float(at, end, value);
    return PyBytes_CheckExact(value) && write_bytes(at, end, value);
}

size_t plain_encode(const struct plain *plain, PyObject *message, uint8_t text[PLAIN_TEXT_BYTES])
{
    uint8_t *at = text;
    const uint8_t *end = text + PLAIN_TEXT_BYTES;
    *at++ = (uint8_t)(0x80 | plain->count);
    for (size_t field_at = 0; field_at < plain->count; field_at++) {
        const struct plain_field *field = &plain->fields[field_at];
        if (!write_run(&at, end, field->name, field->name_bytes) || !write_value(&at, end, *place_of(message, field)))
            return 0;
    }
    return (size_t)(at - text);
}

/* The class */

/* Where the class keeps the value of a field; 0 with ValueError: it has no such slot. */
static size_t offset_of(PyTypeObject *type, const char *name)
{
    const PyMemberDef *member = PyType_GetSlot(type, Py_tp_members);
    for (; member && member->name; member++)
        if (member->type == T_OBJECT_EX && strcmp(member->name, name) == 0)
            return (size_t)member->offset;
    PyErr_Format(PyExc_ValueError, "there is no slot %s", name);
    return 0;
}

static int add_field(struct plain *plain, PyObject *pair)
{
    const char *name;
    struct plain_field *field = &plain->fields[plain->count];
    if (!PyArg_ParseTuple(pair, "sI", &name, &field->holds))
        return 0;
    size_t length = strlen(name);
    if (length > 31) {
        PyErr_SetString(PyExc_ValueError, "a name has at most 31 bytes");
        return 0;
    }
    field->name[0] = (uint8_t)(0xa0 | length);
    memcpy(field->name + 1, name, length);
    field->name_bytes = 1 + length;
    field->offset = offset_of(plain->type, name);
    plain->count++;
    return field->offset != 0;
}

static PyObject *plain_new(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
    (void)names;
    PyObject *class, *fields;
    if (!PyArg_ParseTuple(arguments, "O!O!", &PyType_Type, &class, &PyTuple_Type, &fields))
        return NULL;
    if (PyTuple_Size(fields) > PLAIN_FIELDS_MAX) {
        PyErr_SetString(PyExc_ValueError, "too many fields");
        return NULL;
    }
    struct plain *plain = new_instance(type);
    if (!plain)
        return NULL;
    Py_INCREF(class);
    plain->type = (PyTypeObject *)class;
    for (Py_ssize_t at = 0; at < PyTuple_Size(fields); at++) {
        PyObject *pair = PyTuple_GetItem(fields, at);
        if (!PyTuple_Check(pair) || !add_field(plain, pair)) {
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_TypeError, "a field is a name and what it holds");
            Py_DECREF((PyObject *)plain);
            return NULL;
        }
    }
    return (PyObject *)plain;
}

static PyObject *decode(PyObject *self, PyObject *body)
{
    Py_ssize_t length;
    const uint8_t *bytes = bytes_of(body, &length);
    PyObject *message = bytes ? plain_decode((struct plain *)self, bytes, (size_t)length) : NULL;
    return message || PyErr_Occurred() ? message : Py_NewRef(Py_None);
}

static PyObject *encode(PyObject *self, PyObject *message)
{
    struct plain *plain = (struct plain *)self;
    uint8_t text[PLAIN_TEXT_BYTES];
    if (Py_TYPE(message) != plain->type) {
        PyErr_SetString(PyExc_TypeError, "a message of another class");
        return NULL;
    }
    size_t length = plain_encode(plain, message, text);
    return length ? bytes_from(text, length) : Py_NewRef(Py_None);
}

static int traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)((struct plain *)self)->type);
    return 0;
}

static int clear(PyObject *self)
{
    (void)self; /* a class outlives the rings that it is in: what is read here must stay what it is */
    return 0;
}

static void end(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    Py_XDECREF((PyObject *)((struct plain *)self)->type);
    end_instance(self);
}

static PyMethodDef methods[] = {
    {"decode", decode, METH_O, "The message with this body; None: it is left to msgspec."},
    {"encode", encode, METH_O, "The body of a message; None: it is left to msgspec."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot parts[] = {
    {Py_tp_doc, "(class, ((field, what it holds), ...) in the order of the map): reads and writes its messages."},
    {Py_tp_new, plain_new},
    {Py_tp_dealloc, end},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_methods, methods},
    {0, NULL},
};

PyType_Spec plain_spec = {
    .name = "leftfold.actors._fold.Plain",
    .basicsize = sizeof(struct plain),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = parts,
};
