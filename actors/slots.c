/* slots: the outputs of the entry that is applied, in order: a run of padded REPLY and EVENT slots.
 *
 * It is one run from the start, so what was put out leaves in one piece. The memory of one entry serves the next,
 * unless an entry put out so much that it is better given back. What goes into it is left to the others.
 */
#include "fold.h"

enum { KEPT_BYTES = 4 << 20 };

static struct fifo *run_of(PyObject *self) { return &((struct slots *)self)->run; }

static PyObject *slots_new(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
    (void)names;
    return PyArg_ParseTuple(arguments, "") ? new_instance(type) : NULL;
}

static PyObject *slots_append(PyObject *self, PyObject *slot)
{
    size_t length;
    const uint8_t *bytes = slot_of(slot, 8, &length);
    if (!bytes || !fifo_append(run_of(self), bytes, length))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *slots_list(PyObject *self, PyObject *unused)
{
    (void)unused;
    return fifo_list(run_of(self));
}

static PyObject *slots_run(PyObject *self, PyObject *unused)
{
    (void)unused;
    const struct fifo *run = run_of(self);
    return run->count ? bytes_from(fifo_first(run), fifo_bytes(run)) : bytes_from(NULL, 0);
}

static PyObject *slots_clear(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct fifo *run = run_of(self);
    run->start = run->end = run->count = 0;
    if (run->capacity > KEPT_BYTES)
        fifo_free(run);
    Py_RETURN_NONE;
}

static void slots_end(PyObject *self)
{
    fifo_free(run_of(self));
    end_instance(self);
}

static PyMethodDef methods[] = {
    {"append", slots_append, METH_O, "Add one padded slot."},
    {"clear", slots_clear, METH_NOARGS, "Begin anew."},
    {"list", slots_list, METH_NOARGS, "The slots, one by one."},
    {"run", slots_run, METH_NOARGS, "The slots as one run."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot parts[] = {
    {Py_tp_doc, "The outputs of an entry: padded slots, in order."},
    {Py_tp_new, slots_new},
    {Py_tp_dealloc, slots_end},
    {Py_tp_methods, methods},
    {0, NULL},
};

PyType_Spec slots_spec = {
    .name = "leftfold.actors._fold.Slots",
    .basicsize = sizeof(struct slots),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = parts,
};
