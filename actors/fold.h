/* fold: what the parts of the extension share; see fold.c for what each of them is.
 *
 * References are borrowed unless a name says `new`. Every failure leaves a Python exception set; functions that
 * say int return 0 then, unless Python calls them.
 */
#pragma once
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "sessions.h"

struct slots {
    PyObject_HEAD
    struct fifo run;
};

struct sessions_object {
    PyObject_HEAD
    struct sessions table;
    uint64_t sessions_max;
    int64_t timeout_ns;
};

struct handlers {
    PyObject_HEAD
    Py_buffer words;
    size_t rows;     /* 0: nothing is counted */
    uint32_t until;  /* calls until one is timed again */
    uint32_t chance;
};

struct events {
    PyObject_HEAD
    struct fifo kept;
    uint64_t kept_max, kept_bytes_max;
    uint64_t floor_index; /* of the newest event that is no longer kept */
    uint32_t floor_ordinal, floor_number;
};

/* Set when the module is made, which happens once in a process. */
extern PyTypeObject *slots_type, *sessions_type, *events_type, *commands_type, *handlers_type;
extern PyType_Spec slots_spec, sessions_spec, events_spec, commands_spec, handlers_spec;

/* bytes.c */

/* The bytes of a `bytes`; NULL with TypeError if it is none. */
const uint8_t *bytes_of(PyObject *object, Py_ssize_t *length);
/* The same of a session's id; ValueError if its length is not an id's. */
const uint8_t *id_of(PyObject *object);
PyObject *bytes_from(const uint8_t *bytes, size_t length);
/* The bytes of a padded slot whose head has at least `head_bytes`; NULL with ValueError if it is none. */
const uint8_t *slot_of(PyObject *object, size_t head_bytes, size_t *length);
/* Append one padded slot. */
int fifo_append(struct fifo *fifo, const uint8_t *slot, size_t length);
/* The slots of a fifo as a list of bytes. */
PyObject *fifo_list(const struct fifo *fifo);
/* An instance with zeros for its fields. */
void *new_instance(PyTypeObject *type);
void end_instance(PyObject *self);

/* handlers.c */

/* Call a handler, and count it in this row; a new reference, or NULL with what it raised. */
PyObject *handlers_call(struct handlers *handlers, size_t row, PyObject *call, PyObject *instance, PyObject *message,
                        PyObject *context);
/* Whether there is this row. */
int handlers_has(const struct handlers *handlers, size_t row);

/* events.c */

/* One event goes out, and is kept. What `event` says of its length and type is set here. */
int put_event(struct slots *slots, struct events *events, struct event *event, const uint8_t *key, const uint8_t *body,
              size_t body_length);
PyObject *put_event_from_python(PyObject *module, PyObject *arguments);
