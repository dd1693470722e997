/* handlers: how often each handler was called and how long it took, for whoever looks at the figures.
 *
 * Rows of four words, as a rule in memory that other processes map and read meanwhile:
 *
 *     message id | calls | calls that were timed | their nanoseconds
 *
 * Every call is counted. Timed are the first calls of each handler, and of those that follow about one in 32, at
 * random distances, so that no rhythm in the commands makes the mean wrong. This is the only clock in the fold: no
 * reading of it reaches an actor or its state (I3, I7). Without words nothing is counted.
 */
#include <time.h>

#include "fold.h"

enum { MESSAGE, CALLS, TIMED, TIMED_NS, ROW_WORDS };
enum { FIRST_TIMED = 32, DISTANCES = 64 };

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* One writer, and readers who must not see half a word (I1). */
static void add(uint64_t *word, uint64_t amount) { __atomic_store_n(word, *word + amount, __ATOMIC_RELAXED); }

/* xorshift: anything that has no rhythm will do. */
static uint32_t distance(struct handlers *self)
{
    self->chance ^= self->chance << 13;
    self->chance ^= self->chance >> 17;
    self->chance ^= self->chance << 5;
    return 1 + self->chance % DISTANCES;
}

PyObject *handlers_call(struct handlers *self, size_t row, PyObject *call, PyObject *instance, PyObject *message,
                        PyObject *context)
{
    if (!self->rows)
        return PyObject_CallFunctionObjArgs(call, instance, message, context, NULL);
    uint64_t *words = (uint64_t *)self->words.buf + row * ROW_WORDS;
    add(&words[CALLS], 1);
    if (words[CALLS] > FIRST_TIMED && --self->until)
        return PyObject_CallFunctionObjArgs(call, instance, message, context, NULL);
    self->until = distance(self);
    int64_t began_ns = now_ns();
    PyObject *new_result = PyObject_CallFunctionObjArgs(call, instance, message, context, NULL);
    add(&words[TIMED_NS], (uint64_t)(now_ns() - began_ns));
    add(&words[TIMED], 1);
    return new_result;
}

static PyObject *call_from_python(PyObject *object, PyObject *arguments)
{
    struct handlers *self = (struct handlers *)object;
    Py_ssize_t row;
    PyObject *call, *instance, *message, *context;
    if (!PyArg_ParseTuple(arguments, "nOOOO", &row, &call, &instance, &message, &context))
        return NULL;
    if (!handlers_has(self, (size_t)row)) {
        PyErr_SetString(PyExc_ValueError, "there is no such row");
        return NULL;
    }
    return handlers_call(self, (size_t)row, call, instance, message, context);
}

int handlers_has(const struct handlers *self, size_t row) { return !self->rows || row < self->rows; }

static PyObject *handlers_new(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
    (void)names;
    PyObject *words;
    if (!PyArg_ParseTuple(arguments, "O", &words))
        return NULL;
    struct handlers *self = new_instance(type);
    if (!self)
        return NULL;
    self->until = 1;
    self->chance = 2463534242;
    if (words == Py_None)
        return (PyObject *)self;
    if (PyObject_GetBuffer(words, &self->words, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS) < 0) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    self->rows = (size_t)self->words.len / (ROW_WORDS * sizeof(uint64_t));
    if (!self->rows || self->words.len % (ROW_WORDS * sizeof(uint64_t)) ||
        (uintptr_t)self->words.buf % sizeof(uint64_t)) {
        PyErr_SetString(PyExc_ValueError, "rows are four aligned words each, and at least one");
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    return (PyObject *)self;
}

static void handlers_end(PyObject *object)
{
    struct handlers *self = (struct handlers *)object;
    if (self->words.obj)
        PyBuffer_Release(&self->words);
    end_instance(object);
}

static PyMethodDef methods[] = {
    {"call", call_from_python, METH_VARARGS, "(row, function, instance, message, context): call it, and count it."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot parts[] = {
    {Py_tp_doc, "(words or None): calls of handlers, counted in rows of four words."},
    {Py_tp_new, handlers_new},
    {Py_tp_dealloc, handlers_end},
    {Py_tp_methods, methods},
    {0, NULL},
};

PyType_Spec handlers_spec = {
    .name = "leftfold.actors._fold.Handlers",
    .basicsize = sizeof(struct handlers),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = parts,
};
