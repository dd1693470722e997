/* table: the session table of sessions.h as an object of Python; sessions.py is what the rest of Python sees.
 *
 * It opens, closes and expires sessions, and takes them apart and puts them together again for a snapshot.
 * Admitting requests and keeping replies is done by unit.c, without coming through here.
 */
#include <sys/random.h>

#include "fold.h"

static struct sessions_object *as_sessions(PyObject *self) { return (struct sessions_object *)self; }

static PyObject *sessions_new(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
    (void)names;
    unsigned long long sessions_max;
    long long timeout_ns;
    if (!PyArg_ParseTuple(arguments, "KL", &sessions_max, &timeout_ns))
        return NULL;
    struct sessions_object *sessions = new_instance(type);
    if (!sessions)
        return NULL;
    sessions->sessions_max = sessions_max;
    sessions->timeout_ns = timeout_ns;
    if (getrandom(sessions->table.key, sizeof sessions->table.key, 0) != sizeof sessions->table.key) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF((PyObject *)sessions);
        return NULL;
    }
    return (PyObject *)sessions;
}

static void expire(struct sessions_object *sessions, int64_t clock_ns)
{
    struct session *oldest;
    while ((oldest = sessions_oldest(&sessions->table)) && session_expiry_ns(oldest, sessions->timeout_ns) <= clock_ns)
        sessions_remove(&sessions->table, oldest);
}

static PyObject *sessions_expire(PyObject *self, PyObject *clock)
{
    int64_t clock_ns = PyLong_AsLongLong(clock);
    if (clock_ns == -1 && PyErr_Occurred())
        return NULL;
    expire(as_sessions(self), clock_ns);
    Py_RETURN_NONE;
}

static PyObject *sessions_open(PyObject *self, PyObject *arguments)
{
    struct sessions_object *sessions = as_sessions(self);
    PyObject *id_object;
    long long clock_ns;
    if (!PyArg_ParseTuple(arguments, "OL", &id_object, &clock_ns))
        return NULL;
    const uint8_t *id = id_of(id_object);
    if (!id)
        return NULL;
    expire(sessions, clock_ns);
    struct session *session = sessions_find(&sessions->table, id);
    if (session) {
        sessions_touch(&sessions->table, session, clock_ns);
    } else {
        if (sessions->table.count >= sessions->sessions_max)
            Py_RETURN_NONE;
        session = sessions_add(&sessions->table, id, clock_ns);
        if (!session)
            return PyErr_NoMemory();
    }
    return PyLong_FromUnsignedLongLong(session->last);
}

static PyObject *sessions_close(PyObject *self, PyObject *id_object)
{
    const uint8_t *id = id_of(id_object);
    if (!id)
        return NULL;
    struct session *session = sessions_find(&as_sessions(self)->table, id);
    if (session)
        sessions_remove(&as_sessions(self)->table, session);
    Py_RETURN_NONE;
}

static PyObject *sessions_find_one(PyObject *self, PyObject *id_object)
{
    const uint8_t *id = id_of(id_object);
    if (!id)
        return NULL;
    struct session *session = sessions_find(&as_sessions(self)->table, id);
    if (!session)
        Py_RETURN_NONE;
    PyObject *new_replies = fifo_list(&session->replies);
    if (!new_replies)
        return NULL;
    return Py_BuildValue("y#KKLN", session->id, (Py_ssize_t)SESSION_ID_BYTES, (unsigned long long)session->last,
                         (unsigned long long)session->floor, (long long)session->active_ns, new_replies);
}

static PyObject *sessions_ids(PyObject *self, PyObject *unused)
{
    (void)unused;
    PyObject *list = PyList_New(0);
    for (struct session *each = as_sessions(self)->table.first; list && each; each = each->after) {
        PyObject *new_id = bytes_from(each->id, SESSION_ID_BYTES);
        if (!new_id || PyList_Append(list, new_id) < 0)
            Py_CLEAR(list);
        Py_XDECREF(new_id);
    }
    return list;
}

static int restore_replies(struct session *session, PyObject *replies)
{
    for (Py_ssize_t at = 0; at < PyList_Size(replies); at++) {
        size_t length;
        const uint8_t *slot = slot_of(PyList_GetItem(replies, at), REPLY_BYTES, &length);
        if (!slot || !fifo_append(&session->replies, slot, length))
            return 0;
    }
    return 1;
}

static PyObject *sessions_restore(PyObject *self, PyObject *arguments)
{
    struct sessions *table = &as_sessions(self)->table;
    PyObject *id_object, *replies;
    unsigned long long last, floor;
    long long active_ns;
    if (!PyArg_ParseTuple(arguments, "OKKLO!", &id_object, &last, &floor, &active_ns, &PyList_Type, &replies))
        return NULL;
    const uint8_t *id = id_of(id_object);
    if (!id)
        return NULL;
    if (sessions_find(table, id) || floor > last || (uint64_t)PyList_Size(replies) != last - floor) {
        PyErr_SetString(PyExc_ValueError, "a session is there twice, or does not hold the replies it says");
        return NULL;
    }
    struct session *session = sessions_add(table, id, active_ns);
    if (!session)
        return PyErr_NoMemory();
    session->last = last;
    session->floor = floor;
    if (!restore_replies(session, replies)) {
        sessions_remove(table, session);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *sessions_next_check(PyObject *self, void *unused)
{
    (void)unused;
    struct session *oldest = sessions_oldest(&as_sessions(self)->table);
    if (!oldest)
        Py_RETURN_NONE;
    return PyLong_FromLongLong(session_expiry_ns(oldest, as_sessions(self)->timeout_ns));
}

/* What the sessions take in memory, to the byte that was asked for. */
static PyObject *sessions_memory(PyObject *self, void *unused)
{
    (void)unused;
    const struct sessions *table = &as_sessions(self)->table;
    size_t bytes = table->capacity * sizeof *table->places;
    for (const struct session *each = table->first; each; each = each->after)
        bytes += sizeof *each + each->replies.capacity;
    return PyLong_FromSize_t(bytes);
}

static Py_ssize_t sessions_count(PyObject *self) { return (Py_ssize_t)as_sessions(self)->table.count; }

static void sessions_end(PyObject *self)
{
    sessions_free(&as_sessions(self)->table);
    end_instance(self);
}

static PyMethodDef methods[] = {
    {"open", sessions_open, METH_VARARGS, "(id, clock_ns): the last request applied; None if there are too many."},
    {"close", sessions_close, METH_O, "Forget a session; closing twice is harmless."},
    {"expire", sessions_expire, METH_O, "Forget every session that was silent for the timeout."},
    {"find", sessions_find_one, METH_O, "(id, last, floor, active_ns, replies), or None."},
    {"ids", sessions_ids, METH_NOARGS, "The ids, in order of opening."},
    {"restore", sessions_restore, METH_VARARGS, "Add what `find` gave, in order of opening; ValueError."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"memory_bytes", sessions_memory, NULL, "What all sessions take, with the replies they keep.", NULL},
    {"next_check_ns", sessions_next_check, NULL, "The session clock at which one may expire; None if never.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot parts[] = {
    {Py_tp_doc, "(sessions_max, timeout_ns): the session table; see sessions.py."},
    {Py_tp_new, sessions_new},
    {Py_tp_dealloc, sessions_end},
    {Py_tp_methods, methods},
    {Py_tp_getset, properties},
    {Py_sq_length, sessions_count},
    {0, NULL},
};

PyType_Spec sessions_spec = {
    .name = "leftfold.actors._fold.Sessions",
    .basicsize = sizeof(struct sessions_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = parts,
};
