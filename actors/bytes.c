/* bytes: slots and ids on their way between Python's objects and C's memory, each checked as it comes in. */
#include "fold.h"

const uint8_t *bytes_of(PyObject *object, Py_ssize_t *length)
{
    char *found;
    return PyBytes_AsStringAndSize(object, &found, length) < 0 ? NULL : (const uint8_t *)found;
}

const uint8_t *id_of(PyObject *object)
{
    Py_ssize_t length;
    const uint8_t *id = bytes_of(object, &length);
    if (id && length != SESSION_ID_BYTES) {
        PyErr_SetString(PyExc_ValueError, "a session id has 16 bytes");
        return NULL;
    }
    return id;
}

PyObject *bytes_from(const uint8_t *bytes, size_t length)
{
    return PyBytes_FromStringAndSize((const char *)bytes, (Py_ssize_t)length);
}

const uint8_t *slot_of(PyObject *object, size_t head_bytes, size_t *length)
{
    Py_ssize_t found;
    const uint8_t *slot = bytes_of(object, &found);
    if (!slot)
        return NULL;
    *length = (size_t)found;
    if (*length < head_bytes || slot_length(slot) < head_bytes || slot_padded(slot_length(slot)) != *length) {
        PyErr_SetString(PyExc_ValueError, "these bytes are not one padded slot");
        return NULL;
    }
    return slot;
}

int fifo_append(struct fifo *fifo, const uint8_t *slot, size_t length)
{
    uint8_t *room = fifo_room(fifo, length);
    if (!room) {
        PyErr_NoMemory();
        return 0;
    }
    memcpy(room, slot, length);
    fifo_grow(fifo, length);
    return 1;
}

PyObject *fifo_list(const struct fifo *fifo)
{
    PyObject *list = PyList_New((Py_ssize_t)fifo->count);
    size_t offset = fifo->start;
    for (size_t at = 0; list && at < fifo->count; at++) {
        const uint8_t *slot = fifo->bytes + offset;
        size_t length = slot_padded(slot_length(slot));
        PyObject *new_bytes = bytes_from(slot, length);
        if (!new_bytes || PyList_SetItem(list, (Py_ssize_t)at, new_bytes) < 0) { /* it takes the reference */
            Py_DECREF(list);
            return NULL;
        }
        offset += length;
    }
    return list;
}

void *new_instance(PyTypeObject *type)
{
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    return allocate(type, 0);
}

void end_instance(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}
