/* fold: what every command costs besides its handler, in C: the extension module `_fold`.
 *
 *   Slots      slots.c      the outputs of an entry, in order
 *   Sessions   table.c      the session table, which is in sessions.c
 *   Events     events.c     the retained events
 *   Plain      plain.c      how messages of plain fields are read and written
 *   Handlers   handlers.c   how often each handler was called, and how long it took
 *   Commands   commands.c   the loop over an entry's commands; unit.c: how one of them runs
 *
 * It calls Python for the handler, for messages that are not plain, and for all that is rare, so that each rule has one
 * place. The same bytes come out as when all of it runs in Python (unit.py).
 *
 * A plain extension module and not cffi, because what it handles are Python's objects; stable ABI of 3.11. It is
 * made once in a process, and not for subinterpreters.
 */
#include "plain.h"

PyTypeObject *slots_type, *sessions_type, *events_type, *commands_type, *plain_type, *handlers_type;

static PyMethodDef functions[] = {
    {"put_event", put_event_from_python, METH_VARARGS,
     "(slots, events, (index, ordinal, number), actor type, key, message id, version, time_ns, body): an event goes "
     "out, and is kept."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "leftfold.actors._fold",
    .m_doc = "What every command costs besides its handler.",
    .m_size = -1,
    .m_methods = functions,
};

/* The reference stays with this file. */
static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **place)
{
    *place = (PyTypeObject *)PyType_FromSpec(spec);
    return *place && PyModule_AddType(module, *place) == 0;
}

PyMODINIT_FUNC PyInit__fold(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module && add_type(module, &slots_spec, &slots_type) && add_type(module, &sessions_spec, &sessions_type) &&
        add_type(module, &events_spec, &events_type) && add_type(module, &commands_spec, &commands_type) &&
        add_type(module, &plain_spec, &plain_type) && add_type(module, &handlers_spec, &handlers_type))
        return module;
    Py_XDECREF(module);
    return NULL;
}
