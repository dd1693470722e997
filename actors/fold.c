/* fold: what every command costs besides its handler, in C.
 *
 *   Slots      the outputs of an entry, in order: a growing run of padded REPLY and EVENT slots
 *   Sessions   the session table of sessions.h
 *   Events     the retained events: a fifo of EVENT slots, limited by count and by bytes
 *   Commands   the loop over an entry's commands
 *
 * Commands.apply does for each command of an entry what machine.py and unit.py say: find the session,
 * admit the request, decode, call the handler, encode, and lay the reply into Slots and into the session. It
 * calls Python for the decoder, the handler and the encoder, and for all that is rare: an actor that comes into
 * being, a message of another version, any error, sends and timers (`Units`, in unit.py). So each rule that is
 * told there has one place; this file holds the road that nearly every command takes.
 *
 * A plain extension module and not cffi, because what it handles are Python's objects; stable ABI of 3.11.
 * References are borrowed unless a name says `new`. Every failure leaves a Python exception set.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdio.h>
#include <sys/random.h>

#include "sessions.h"

enum {
    COMMAND_BYTES = 40,
    REPLY_BYTES = 48,
    EVENT_BYTES = 40,
    TYPE_COMMAND = 3,
    TYPE_REPLY = 17,
    TYPE_EVENT = 19,
    STATUS_OK = 0,
    STATUS_OUT_OF_ORDER = 4,
    STATUS_SESSION_EXPIRED = 5,
    STATUS_BAD_REQUEST = 7,
    STATUS_WINDOW_EXCEEDED = 8,
    STATUS_ANSWER_FORGOTTEN = 11,
    STATUS_REPLY_TOO_LARGE = 12,
    STATUS_SKIPPED = 13,
    STATUSES = 16,
};

struct command { /* as on the wire, little-endian, see layout.py */
    uint32_t length;
    uint16_t type, tag;
    uint8_t session[16];
    uint64_t request;
    uint32_t unanswered;
    uint16_t key_length, version;
};

struct reply {
    uint32_t length;
    uint16_t type, tag;
    uint8_t session[16];
    uint64_t request, index;
    uint32_t ordinal;
    uint16_t status, version; /* of the reply's message */
};

struct event {
    uint32_t length;
    uint16_t type, tag;
    uint64_t index;
    uint32_t ordinal, number;
    uint16_t actor_type, key_length;
    uint32_t version; /* of the event's message */
    int64_t time_ns;
};

_Static_assert(sizeof(struct command) == COMMAND_BYTES, "as in layout.py");
_Static_assert(sizeof(struct reply) == REPLY_BYTES, "as in layout.py");
_Static_assert(sizeof(struct event) == EVENT_BYTES, "as in layout.py");

static PyTypeObject *slots_type, *sessions_type, *events_type, *commands_type;

static PyObject *no_memory(void) { return PyErr_NoMemory(); }

/* The bytes of a Python object; NULL with TypeError if it is not `bytes`. */
static const uint8_t *bytes_of(PyObject *object, Py_ssize_t *length)
{
    char *found;
    return PyBytes_AsStringAndSize(object, &found, length) < 0 ? NULL : (const uint8_t *)found;
}

static const uint8_t *id_of(PyObject *object)
{
    Py_ssize_t length;
    const uint8_t *id = bytes_of(object, &length);
    if (id && length != 16) {
        PyErr_SetString(PyExc_ValueError, "a session id has 16 bytes");
        return NULL;
    }
    return id;
}

static PyObject *bytes_from(const uint8_t *bytes, size_t length)
{
    return PyBytes_FromStringAndSize((const char *)bytes, (Py_ssize_t)length);
}

/* A padded slot of a fifo as bytes. */
static PyObject *slot_from(const uint8_t *slot) { return bytes_from(slot, slot_padded(slot_length(slot))); }

/* Append whole padded slots that lie in `bytes`, or set an exception. */
static int fifo_append(struct fifo *fifo, const uint8_t *bytes, size_t length)
{
    uint8_t *room = fifo_room(fifo, length);
    if (!room) {
        no_memory();
        return 0;
    }
    memcpy(room, bytes, length);
    fifo_grow(fifo, length);
    return 1;
}

/* The list of a fifo's slots. */
static PyObject *fifo_list(const struct fifo *fifo)
{
    PyObject *list = PyList_New((Py_ssize_t)fifo->count);
    const uint8_t *slot = fifo->bytes + fifo->start;
    for (size_t at = 0; list && at < fifo->count; at++, slot += slot_padded(slot_length(slot))) {
        PyObject *bytes = slot_from(slot);
        if (!bytes || PyList_SetItem(list, (Py_ssize_t)at, bytes) < 0) {
            Py_DECREF(list);
            return NULL;
        }
    }
    return list;
}

static PyObject *new_instance(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
    (void)arguments, (void)names;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    return allocate(type, 0);
}

static void end_instance(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

/* Slots */

struct slots {
    PyObject_HEAD
    struct fifo run;
};

static PyObject *slots_append(PyObject *self, PyObject *slot)
{
    Py_ssize_t length;
    const uint8_t *bytes = bytes_of(slot, &length);
    if (!bytes || !fifo_append(&((struct slots *)self)->run, bytes, (size_t)length))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *slots_list(PyObject *self, PyObject *unused)
{
    (void)unused;
    return fifo_list(&((struct slots *)self)->run);
}

static PyObject *slots_run(PyObject *self, PyObject *unused)
{
    (void)unused;
    const struct fifo *run = &((struct slots *)self)->run;
    return bytes_from(run->bytes + run->start, fifo_bytes(run));
}

static PyObject *slots_clear(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct fifo *run = &((struct slots *)self)->run;
    run->start = run->end = run->count = 0;
    Py_RETURN_NONE;
}

static void slots_end(PyObject *self)
{
    fifo_free(&((struct slots *)self)->run);
    end_instance(self);
}

static PyMethodDef slots_methods[] = {
    {"append", slots_append, METH_O, "Add one padded slot."},
    {"clear", slots_clear, METH_NOARGS, "Begin anew."},
    {"list", slots_list, METH_NOARGS, "The slots, one by one."},
    {"run", slots_run, METH_NOARGS, "The slots as one run."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots_slots[] = {
    {Py_tp_doc, "The outputs of an entry: padded slots, in order."},
    {Py_tp_new, new_instance},
    {Py_tp_dealloc, slots_end},
    {Py_tp_methods, slots_methods},
    {0, NULL},
};

/* Sessions */

struct sessions_object {
    PyObject_HEAD
    struct sessions table;
    uint64_t sessions_max;
    int64_t timeout_ns;
};

static struct sessions_object *as_sessions(PyObject *self) { return (struct sessions_object *)self; }

static int sessions_init(PyObject *self, PyObject *arguments, PyObject *names)
{
    (void)names;
    struct sessions_object *sessions = as_sessions(self);
    unsigned long long maximum;
    long long timeout_ns;
    if (!PyArg_ParseTuple(arguments, "KL", &maximum, &timeout_ns))
        return -1;
    /* Clients choose the ids: where they lie in the table must not be theirs to choose. Nothing that is
     * seen depends on it. */
    if (getrandom(sessions->table.seed, sizeof sessions->table.seed, 0) != sizeof sessions->table.seed) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    sessions->sessions_max = maximum;
    sessions->timeout_ns = timeout_ns;
    return 0;
}

static void expire(struct sessions_object *sessions, int64_t clock_ns)
{
    struct session *oldest;
    while ((oldest = sessions_oldest(&sessions->table)) && oldest->active_ns + sessions->timeout_ns <= clock_ns)
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
            return no_memory();
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

static PyObject *session_record(const struct session *session)
{
    PyObject *replies = fifo_list(&session->replies);
    if (!replies)
        return NULL;
    return Py_BuildValue("y#KKLN", session->id, (Py_ssize_t)16, (unsigned long long)session->last,
                         (unsigned long long)session->floor, (long long)session->active_ns, replies);
}

static PyObject *sessions_find_one(PyObject *self, PyObject *id_object)
{
    const uint8_t *id = id_of(id_object);
    if (!id)
        return NULL;
    struct session *session = sessions_find(&as_sessions(self)->table, id);
    if (!session)
        Py_RETURN_NONE;
    return session_record(session);
}

static PyObject *sessions_ids(PyObject *self, PyObject *unused)
{
    (void)unused;
    PyObject *list = PyList_New(0);
    for (struct session *each = as_sessions(self)->table.first; list && each; each = each->after) {
        PyObject *id = bytes_from(each->id, 16);
        if (!id || PyList_Append(list, id) < 0) {
            Py_XDECREF(id);
            Py_DECREF(list);
            return NULL;
        }
        Py_DECREF(id);
    }
    return list;
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
        return no_memory();
    session->last = last;
    session->floor = floor;
    for (Py_ssize_t at = 0; at < PyList_Size(replies); at++) {
        Py_ssize_t length;
        const uint8_t *bytes = bytes_of(PyList_GetItem(replies, at), &length);
        if (!bytes)
            return NULL;
        if (length < REPLY_BYTES || slot_padded(slot_length(bytes)) != (size_t)length) {
            PyErr_SetString(PyExc_ValueError, "a kept reply is not a slot");
            return NULL;
        }
        if (!fifo_append(&session->replies, bytes, (size_t)length))
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
    return PyLong_FromLongLong(oldest->active_ns + as_sessions(self)->timeout_ns);
}

static Py_ssize_t sessions_count(PyObject *self) { return (Py_ssize_t)as_sessions(self)->table.count; }

static void sessions_end(PyObject *self)
{
    sessions_free(&as_sessions(self)->table);
    end_instance(self);
}

static PyMethodDef sessions_methods[] = {
    {"open", sessions_open, METH_VARARGS, "(id, clock_ns): the last request applied; None if there are too many."},
    {"close", sessions_close, METH_O, "Forget a session; closing twice is harmless."},
    {"expire", sessions_expire, METH_O, "Forget every session that was silent for the timeout."},
    {"find", sessions_find_one, METH_O, "(id, last, floor, active_ns, replies), or None."},
    {"ids", sessions_ids, METH_NOARGS, "The ids, in order of opening."},
    {"restore", sessions_restore, METH_VARARGS, "Add what `find` gave, in order of opening; ValueError."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef sessions_properties[] = {
    {"next_check_ns", sessions_next_check, NULL, "The session clock at which one may expire; None if never.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot sessions_slots[] = {
    {Py_tp_doc, "(sessions_max, timeout_ns): the session table; see sessions.py."},
    {Py_tp_new, new_instance},
    {Py_tp_init, sessions_init},
    {Py_tp_dealloc, sessions_end},
    {Py_tp_methods, sessions_methods},
    {Py_tp_getset, sessions_properties},
    {Py_sq_length, sessions_count},
    {0, NULL},
};

/* Events */

struct events_object {
    PyObject_HEAD
    struct fifo kept;
    uint64_t kept_max, kept_bytes_max;
    uint64_t floor_index; /* of the newest event that is no longer kept */
    uint32_t floor_ordinal, floor_number;
};

static struct events_object *as_events(PyObject *self) { return (struct events_object *)self; }

static int events_init(PyObject *self, PyObject *arguments, PyObject *names)
{
    (void)names;
    unsigned long long kept_max, kept_bytes_max;
    if (!PyArg_ParseTuple(arguments, "KK", &kept_max, &kept_bytes_max))
        return -1;
    as_events(self)->kept_max = kept_max;
    as_events(self)->kept_bytes_max = kept_bytes_max;
    return 0;
}

static int events_push(struct events_object *events, const uint8_t *slot, size_t length)
{
    struct fifo *kept = &events->kept;
    if (!fifo_append(kept, slot, length))
        return 0;
    while (kept->count > events->kept_max || fifo_bytes(kept) > events->kept_bytes_max) {
        struct event oldest;
        memcpy(&oldest, kept->bytes + kept->start, sizeof oldest);
        events->floor_index = oldest.index;
        events->floor_ordinal = oldest.ordinal;
        events->floor_number = oldest.number;
        fifo_drop_first(kept);
    }
    return 1;
}

static PyObject *events_keep(PyObject *self, PyObject *slot)
{
    Py_ssize_t length;
    const uint8_t *bytes = bytes_of(slot, &length);
    if (!bytes)
        return NULL;
    if (length < EVENT_BYTES || slot_padded(slot_length(bytes)) != (size_t)length) {
        PyErr_SetString(PyExc_ValueError, "an event is not a slot");
        return NULL;
    }
    if (!events_push(as_events(self), bytes, (size_t)length))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *events_all(PyObject *self, PyObject *unused)
{
    (void)unused;
    return fifo_list(&as_events(self)->kept);
}

static int is_after(const struct event *event, uint64_t index, uint32_t ordinal, uint32_t number)
{
    if (event->index != index)
        return event->index > index;
    if (event->ordinal != ordinal)
        return event->ordinal > ordinal;
    return event->number > number;
}

/* (index, ordinal, number, actor type or 0, key or b"", bytes_max): the kept events behind that position that
 * match, as a run of at most bytes_max, one at least; how many; whether any were left out. */
static PyObject *events_after(PyObject *self, PyObject *arguments)
{
    const struct fifo *kept = &as_events(self)->kept;
    unsigned long long index, bytes_max;
    unsigned int ordinal, number, actor_type;
    PyObject *key;
    if (!PyArg_ParseTuple(arguments, "KIIIO!K", &index, &ordinal, &number, &actor_type, &PyBytes_Type, &key,
                          &bytes_max))
        return NULL;
    Py_ssize_t key_length;
    const uint8_t *key_bytes = bytes_of(key, &key_length);
    struct fifo run = {0};
    int partial = 0;
    const uint8_t *slot = kept->bytes + kept->start;
    for (size_t at = 0; at < kept->count; at++) {
        struct event event;
        memcpy(&event, slot, sizeof event);
        size_t length = slot_padded(event.length);
        int matches = is_after(&event, index, ordinal, number) &&
                      (!actor_type || event.actor_type == actor_type) &&
                      (!key_length || (event.key_length == key_length &&
                                       !memcmp(slot + EVENT_BYTES, key_bytes, (size_t)key_length)));
        if (matches) {
            partial = run.count && fifo_bytes(&run) + length > bytes_max;
            if (partial)
                break;
            if (!fifo_append(&run, slot, length)) {
                fifo_free(&run);
                return NULL;
            }
        }
        slot += length;
    }
    PyObject *found = Py_BuildValue("y#nO", run.bytes ? (const char *)run.bytes : "", (Py_ssize_t)fifo_bytes(&run),
                                    (Py_ssize_t)run.count, partial ? Py_True : Py_False);
    fifo_free(&run);
    return found;
}

static PyObject *events_floor(PyObject *self, void *unused)
{
    (void)unused;
    struct events_object *events = as_events(self);
    return Py_BuildValue("KII", (unsigned long long)events->floor_index, events->floor_ordinal, events->floor_number);
}

static int events_set_floor(PyObject *self, PyObject *value, void *unused)
{
    (void)unused;
    unsigned long long index;
    unsigned int ordinal, number;
    if (!value || !PyTuple_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "the floor is a position");
        return -1;
    }
    if (!PyArg_ParseTuple(value, "KII", &index, &ordinal, &number))
        return -1;
    struct events_object *events = as_events(self);
    events->floor_index = index;
    events->floor_ordinal = ordinal;
    events->floor_number = number;
    return 0;
}

static Py_ssize_t events_count(PyObject *self) { return (Py_ssize_t)as_events(self)->kept.count; }

static void events_end(PyObject *self)
{
    fifo_free(&as_events(self)->kept);
    end_instance(self);
}

static PyMethodDef events_methods[] = {
    {"keep", events_keep, METH_O, "Append an EVENT slot and push out the oldest beyond the limits."},
    {"all", events_all, METH_NOARGS, "Every kept event, oldest first."},
    {"after", events_after, METH_VARARGS,
     "(index, ordinal, number, actor type, key, bytes_max): (run, count, whether it is a part)."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef events_properties[] = {
    {"floor", events_floor, events_set_floor, "The position of the newest event that is no longer kept.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot events_slots[] = {
    {Py_tp_doc, "(kept_max, kept_bytes_max): the retained events; see events.py."},
    {Py_tp_new, new_instance},
    {Py_tp_init, events_init},
    {Py_tp_dealloc, events_end},
    {Py_tp_methods, events_methods},
    {Py_tp_getset, events_properties},
    {Py_sq_length, events_count},
    {0, NULL},
};

/* Commands */

struct lane {
    uint16_t id, version;
    PyObject *decode, *instances, *call, *replies, *actor;
};

struct commands {
    PyObject_HEAD
    /* Found in `Units`, see its text. */
    PyObject *versions; /* by message id, of those that are not of version 0 */
    PyObject *units, *context, *outputs, *quarantined, *encode;
    PyObject *run_command, *end_command, *wrong_reply, *commit, *control;
    struct sessions_object *sessions;
    struct events_object *events;
    struct slots *slots;
    struct lane *lanes;
    size_t lanes_count;
    uint16_t lane_of[1024]; /* by message id modulo this, plus one; 0: look through all */
    Py_buffer position;
    uint64_t window, replies_bytes_max, reply_bytes_max;
    int slow; /* every command in Python, for strict mode and for whoever watches */
    const struct lane *set_lane; /* whose actor and ... */
    PyObject *set_key;           /* ... which key the context holds; NULL: unknown */
    PyObject *refusals[STATUSES];
    PyObject *name_actor, *name_key;
};

/* Where one command stands while it is applied. */
struct unit {
    const struct command *command;
    const uint8_t *key, *body;
    size_t body_bytes;
    struct session *session;
    uint64_t index;
    uint32_t ordinal;
    int64_t time_ns, clock_ns;
};

static const struct lane *lane_of(const struct commands *self, uint16_t id)
{
    size_t hint = self->lane_of[id % 1024];
    if (hint && self->lanes[hint - 1].id == id)
        return &self->lanes[hint - 1];
    for (size_t at = 0; at < self->lanes_count; at++)
        if (self->lanes[at].id == id)
            return &self->lanes[at];
    return NULL;
}

/* The version in which a message is written. */
static uint16_t version_of(const struct commands *self, uint16_t id)
{
    if (!id || !PyDict_Size(self->versions))
        return 0;
    PyObject *new_id = PyLong_FromLong(id);
    PyObject *found = new_id ? PyDict_GetItemWithError(self->versions, new_id) : NULL;
    Py_XDECREF(new_id);
    return found ? (uint16_t)PyLong_AsLong(found) : 0;
}

/* Lay a REPLY into the outputs; its place, or NULL. */
static uint8_t *put_reply(struct commands *self, const struct unit *unit, uint16_t status, uint16_t id,
                          const uint8_t *text, size_t text_bytes)
{
    size_t length = REPLY_BYTES + text_bytes, padded = slot_padded(length);
    uint8_t *room = fifo_room(&self->slots->run, padded);
    if (!room) {
        no_memory();
        return NULL;
    }
    struct reply reply = {
        .length = (uint32_t)length,
        .type = TYPE_REPLY,
        .tag = id,
        .request = unit->command->request,
        .index = unit->index,
        .ordinal = unit->ordinal,
        .status = status,
        .version = version_of(self, id),
    };
    memcpy(reply.session, unit->command->session, 16);
    memset(room + padded - 8, 0, 8);
    memcpy(room, &reply, sizeof reply);
    memcpy(room + REPLY_BYTES, text, text_bytes);
    fifo_grow(&self->slots->run, padded);
    return room;
}

/* The reply to a command that was applied: it goes out, and is kept. */
static int answer(struct commands *self, const struct unit *unit, uint16_t status, uint16_t id, const uint8_t *text,
                  size_t text_bytes)
{
    struct session *session = unit->session;
    const uint8_t *reply = put_reply(self, unit, status, id, text, text_bytes);
    if (!reply || !fifo_append(&session->replies, reply, slot_padded(REPLY_BYTES + text_bytes)))
        return 0;
    session->last = unit->command->request;
    sessions_touch(&self->sessions->table, session, unit->clock_ns);
    return 1;
}

/* The reply to a request that changes nothing; nothing is kept. */
static int refuse(struct commands *self, const struct unit *unit, int status)
{
    Py_ssize_t length;
    const uint8_t *text = bytes_of(self->refusals[status], &length);
    return text && put_reply(self, unit, (uint16_t)status, 0, text, (size_t)length);
}

/* Take (status, id, text) apart and answer with it. Steals `found`. */
static int answer_with(struct commands *self, const struct unit *unit, PyObject *new_found)
{
    if (!new_found)
        return 0;
    int done = 0;
    int status, id;
    PyObject *text;
    if (PyArg_ParseTuple(new_found, "iiO!", &status, &id, &PyBytes_Type, &text)) {
        Py_ssize_t length;
        const uint8_t *bytes = bytes_of(text, &length);
        done = answer(self, unit, (uint16_t)status, (uint16_t)id, bytes, (size_t)length);
    }
    Py_DECREF(new_found);
    return done;
}

/* The whole of a command in Python. */
static int run_slowly(struct commands *self, const struct unit *unit)
{
    const struct command *command = unit->command;
    self->set_lane = NULL;
    return answer_with(self, unit,
                       PyObject_CallFunction(self->run_command, "IHHy#y#", unit->ordinal, command->tag,
                                             command->version, unit->key, (Py_ssize_t)command->key_length, unit->body,
                                             (Py_ssize_t)unit->body_bytes));
}

/* The handler, or what came after it, raised: Python decides what becomes of it. */
static int end_raised(struct commands *self, const struct unit *unit, PyObject *key)
{
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback)
        PyException_SetTraceback(error, traceback);
    self->set_lane = NULL;
    PyObject *found = PyObject_CallFunction(self->end_command, "OHO", error, unit->command->tag, key);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    return answer_with(self, unit, found);
}

/* Make the context that of this command, touching only what differs from the one before. */
static int set_context(struct commands *self, const struct lane *lane, const struct unit *unit)
{
    if (self->set_lane != lane && PyObject_SetAttr(self->context, self->name_actor, lane->actor) < 0)
        return 0;
    Py_ssize_t length = -1;
    const uint8_t *held = self->set_key ? bytes_of(self->set_key, &length) : NULL;
    int same = length == unit->command->key_length && memcmp(held, unit->key, (size_t)length) == 0;
    if (!same) {
        PyObject *new_key = bytes_from(unit->key, unit->command->key_length);
        if (!new_key)
            return 0;
        Py_XDECREF(self->set_key);
        self->set_key = new_key;
    }
    if (!(same && self->set_lane == lane) && PyObject_SetAttr(self->context, self->name_key, self->set_key) < 0)
        return 0;
    self->set_lane = lane;
    return 1;
}

/* One event goes out, and is kept. */
static int put_event(struct slots *slots, struct events_object *events, struct event *event, const uint8_t *key,
                     const uint8_t *body, size_t body_length)
{
    size_t length = EVENT_BYTES + event->key_length + body_length, padded = slot_padded(length);
    uint8_t *room = fifo_room(&slots->run, padded);
    if (!room) {
        no_memory();
        return 0;
    }
    event->length = (uint32_t)length;
    event->type = TYPE_EVENT;
    memset(room + padded - 8, 0, 8);
    memcpy(room, event, sizeof *event);
    memcpy(room + EVENT_BYTES, key, event->key_length);
    memcpy(room + EVENT_BYTES + event->key_length, body, body_length);
    fifo_grow(&slots->run, padded);
    return events_push(events, room, padded);
}

/* (actor type, key, message id, body), as Context.emit leaves it. */
static int emit(struct commands *self, const struct unit *unit, uint32_t number, PyObject *output)
{
    unsigned int actor_type, id;
    Py_ssize_t key_length, body_length;
    PyObject *key_object = PyTuple_GetItem(output, 1), *body_object = PyTuple_GetItem(output, 3);
    if (!key_object || !body_object)
        return 0;
    actor_type = (unsigned int)PyLong_AsUnsignedLong(PyTuple_GetItem(output, 0));
    id = (unsigned int)PyLong_AsUnsignedLong(PyTuple_GetItem(output, 2));
    const uint8_t *key = bytes_of(key_object, &key_length), *body = bytes_of(body_object, &body_length);
    if (!key || !body || PyErr_Occurred())
        return 0;
    struct event event = {
        .tag = (uint16_t)id,
        .index = unit->index,
        .ordinal = unit->ordinal,
        .number = number,
        .actor_type = (uint16_t)actor_type,
        .key_length = (uint16_t)key_length,
        .version = version_of(self, (uint16_t)id),
        .time_ns = unit->time_ns,
    };
    return put_event(self->slots, self->events, &event, key, body, (size_t)body_length);
}

/* Let the outputs of the handler happen: here, if all of them are events. 0: an exception is set. */
static int commit(struct commands *self, const struct unit *unit)
{
    Py_ssize_t count = PyList_Size(self->outputs);
    for (Py_ssize_t at = 0; at < count; at++) {
        if (!PyTuple_CheckExact(PyList_GetItem(self->outputs, at))) {
            self->set_lane = NULL; /* a delivery sets the context */
            PyObject *new_none = PyObject_CallFunctionObjArgs(self->commit, NULL);
            Py_XDECREF(new_none);
            return new_none != NULL;
        }
    }
    for (Py_ssize_t at = 0; at < count; at++)
        if (!emit(self, unit, (uint32_t)at + 1, PyList_GetItem(self->outputs, at)))
            return 0;
    return PyList_SetSlice(self->outputs, 0, count, NULL) == 0;
}

/* The reply's id and body. 0: it is none that was promised, or cannot be encoded: an exception is set. */
static int encode(struct commands *self, const struct lane *lane, PyObject *result, uint16_t *id, PyObject **new_text)
{
    PyObject *found = PyDict_GetItemWithError(lane->replies, (PyObject *)Py_TYPE(result));
    if (!found) {
        if (!PyErr_Occurred()) {
            PyObject *new_none = PyObject_CallFunctionObjArgs(self->wrong_reply, result, NULL);
            Py_XDECREF(new_none);
        }
        return 0;
    }
    *id = (uint16_t)PyLong_AsUnsignedLong(found);
    *new_text = *id ? PyObject_CallFunctionObjArgs(self->encode, result, NULL) : PyBytes_FromStringAndSize("", 0);
    return *new_text != NULL;
}

/* A command whose actor is there and that nothing speaks against. 0: an exception goes to the caller. */
static int run_fast(struct commands *self, const struct unit *unit, const struct lane *lane, PyObject *instance)
{
    Py_INCREF(instance); /* whatever the handler does to the table */
    PyObject *new_message = NULL, *new_result = NULL, *new_text = NULL;
    uint16_t id = 0;
    int done = 0;
    PyObject *new_body = bytes_from(unit->body, unit->body_bytes);
    if (!new_body)
        goto out;
    new_message = PyObject_CallFunctionObjArgs(lane->decode, new_body, NULL);
    if (!new_message) {
        if (!PyErr_ExceptionMatches(PyExc_MemoryError)) {
            PyErr_Clear(); /* it will be found, and told, again */
            done = run_slowly(self, unit);
        }
        goto out;
    }
    /* Before the sends, which may change what the reply refers to, it is encoded. */
    new_result = PyObject_CallFunctionObjArgs(lane->call, instance, new_message, self->context, NULL);
    if (!new_result || !encode(self, lane, new_result, &id, &new_text) ||
        (PyList_Size(self->outputs) && !commit(self, unit))) {
        done = end_raised(self, unit, self->set_key);
        goto out;
    }
    Py_ssize_t length;
    const uint8_t *text = bytes_of(new_text, &length);
    if (!text)
        goto out;
    if ((uint64_t)length > self->reply_bytes_max) {
        char sentence[64];
        int written = snprintf(sentence, sizeof sentence, "the reply has %zd bytes", length);
        done = answer(self, unit, STATUS_REPLY_TOO_LARGE, 0, (const uint8_t *)sentence, (size_t)written);
    } else {
        done = answer(self, unit, STATUS_OK, id, text, (size_t)length);
    }
out:
    Py_DECREF(instance);
    Py_XDECREF(new_body);
    Py_XDECREF(new_message);
    Py_XDECREF(new_result);
    Py_XDECREF(new_text);
    return done;
}

static int run(struct commands *self, const struct unit *unit)
{
    const struct command *command = unit->command;
    const struct lane *lane = lane_of(self, command->tag);
    if (!lane || lane->version != command->version || self->slow || PyDict_Size(self->quarantined))
        return run_slowly(self, unit);
    uint64_t *position = self->position.buf;
    position[1] = unit->ordinal;
    position[2] = command->tag;
    if (!set_context(self, lane, unit))
        return 0;
    PyObject *instance = PyDict_GetItemWithError(lane->instances, self->set_key);
    if (!instance)
        return PyErr_Occurred() ? 0 : run_slowly(self, unit);
    return run_fast(self, unit, lane, instance);
}

/* One command, from its session on. */
static int take(struct commands *self, struct unit *unit, PyObject *skips)
{
    static const int statuses[] = {
        [VERDICT_GAP] = STATUS_OUT_OF_ORDER,
        [VERDICT_BAD] = STATUS_BAD_REQUEST,
        [VERDICT_FORGOTTEN] = STATUS_ANSWER_FORGOTTEN,
        [VERDICT_WINDOW] = STATUS_WINDOW_EXCEEDED,
    };
    const struct command *command = unit->command;
    struct session *session = unit->session = sessions_find(&self->sessions->table, command->session);
    if (!session)
        return refuse(self, unit, STATUS_SESSION_EXPIRED);
    enum verdict verdict = session_admit(session, command->request, command->unanswered, self->window,
                                         self->replies_bytes_max);
    if (verdict == VERDICT_AGAIN) {
        const uint8_t *reply = session_reply(session, command->request);
        sessions_touch(&self->sessions->table, session, unit->clock_ns);
        return fifo_append(&self->slots->run, reply, slot_padded(slot_length(reply)));
    }
    if (verdict != VERDICT_APPLY)
        return refuse(self, unit, statuses[verdict]);
    if (skips != Py_None) {
        PyObject *new_place = Py_BuildValue("KI", (unsigned long long)unit->index, unit->ordinal);
        int skipped = new_place ? PySet_Contains(skips, new_place) : -1;
        Py_XDECREF(new_place);
        if (skipped < 0)
            return 0;
        if (skipped) {
            Py_ssize_t length;
            const uint8_t *text = bytes_of(self->refusals[STATUS_SKIPPED], &length);
            return answer(self, unit, STATUS_SKIPPED, 0, text, (size_t)length);
        }
    }
    if (COMMAND_BYTES + (size_t)command->key_length > command->length) {
        Py_ssize_t length;
        const uint8_t *text = bytes_of(self->refusals[STATUS_BAD_REQUEST], &length);
        return answer(self, unit, STATUS_BAD_REQUEST, 0, text, (size_t)length);
    }
    return run(self, unit);
}

/* (body, index, time_ns, clock_ns, skips or None) */
static PyObject *commands_apply(PyObject *object, PyObject *arguments)
{
    struct commands *self = (struct commands *)object;
    PyObject *body, *skips;
    unsigned long long index;
    long long time_ns, clock_ns;
    if (!PyArg_ParseTuple(arguments, "O!KLLO", &PyBytes_Type, &body, &index, &time_ns, &clock_ns, &skips))
        return NULL;
    Py_ssize_t left;
    const uint8_t *at = bytes_of(body, &left);
    struct unit unit = {.index = index, .time_ns = time_ns, .clock_ns = clock_ns};
    self->set_lane = NULL;
    while (left > 0) {
        struct command command;
        uint32_t length = left >= COMMAND_BYTES ? slot_length(at) : 0;
        if (length < COMMAND_BYTES || length > (size_t)left)
            return PyErr_Format(PyExc_AssertionError, "a broken slot in entry %llu", index);
        memcpy(&command, at, sizeof command);
        if (command.type == TYPE_COMMAND) {
            unit.command = &command;
            unit.key = at + COMMAND_BYTES;
            unit.body = unit.key + command.key_length;
            unit.body_bytes = length - COMMAND_BYTES - command.key_length; /* unless the key is too long */
            if (!take(self, &unit, skips))
                return NULL;
        } else {
            PyObject *new_none = PyObject_CallFunction(self->control, "Hy#I", command.type, command.session,
                                                       (Py_ssize_t)16, unit.ordinal);
            if (!new_none)
                return NULL;
            Py_DECREF(new_none);
        }
        unit.ordinal++;
        size_t padded = slot_padded(length);
        at += padded;
        left -= (Py_ssize_t)padded;
    }
    Py_RETURN_NONE;
}

/* An attribute of `units` that lives as long as it does. */
static PyObject *taken(PyObject *units, const char *name) { return PyObject_GetAttrString(units, name); }

static int add_lane(struct commands *self, PyObject *id, PyObject *lane)
{
    struct lane *added = &self->lanes[self->lanes_count];
    unsigned long version;
    if (!PyArg_ParseTuple(lane, "OOOOOk", &added->decode, &added->instances, &added->call, &added->replies,
                          &added->actor, &version))
        return 0;
    added->id = (uint16_t)PyLong_AsUnsignedLong(id);
    added->version = (uint16_t)version;
    Py_INCREF(added->decode), Py_INCREF(added->instances), Py_INCREF(added->call), Py_INCREF(added->replies);
    Py_INCREF(added->actor);
    self->lane_of[added->id % 1024] = (uint16_t)++self->lanes_count;
    return !PyErr_Occurred();
}

static int add_lanes(struct commands *self, PyObject *lanes)
{
    self->lanes = calloc((size_t)PyDict_Size(lanes) + 1, sizeof *self->lanes);
    if (!self->lanes) {
        no_memory();
        return 0;
    }
    PyObject *id, *lane;
    for (Py_ssize_t at = 0; PyDict_Next(lanes, &at, &id, &lane);)
        if (!add_lane(self, id, lane))
            return 0;
    return 1;
}

static int add_refusals(struct commands *self, PyObject *refusals)
{
    PyObject *status, *text;
    for (Py_ssize_t at = 0; PyDict_Next(refusals, &at, &status, &text);) {
        unsigned long number = PyLong_AsUnsignedLong(status);
        if (number >= STATUSES || !PyBytes_Check(text)) {
            PyErr_SetString(PyExc_ValueError, "refusals are bytes by status");
            return 0;
        }
        Py_INCREF(text);
        self->refusals[number] = text;
    }
    for (size_t at = 0; at < STATUSES; at++)
        if (!self->refusals[at] && !(self->refusals[at] = PyBytes_FromStringAndSize("", 0)))
            return 0;
    return 1;
}

static int commands_init(PyObject *object, PyObject *arguments, PyObject *names)
{
    (void)names;
    struct commands *self = (struct commands *)object;
    PyObject *units, *sessions, *events, *slots, *lanes, *versions, *position, *refusals, *control;
    unsigned long long window, replies_bytes_max, reply_bytes_max;
    if (!PyArg_ParseTuple(arguments, "OO!O!O!O!O!OO!OKKKp", &units, sessions_type, &sessions, events_type, &events,
                          slots_type, &slots, &PyDict_Type, &lanes,
                          &PyDict_Type, &versions, &position, &PyDict_Type, &refusals, &control,
                          &window, &replies_bytes_max, &reply_bytes_max, &self->slow))
        return -1;
    if (PyObject_GetBuffer(position, &self->position, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS) < 0)
        return -1;
    if (self->position.len < 3 * (Py_ssize_t)sizeof(uint64_t)) {
        PyErr_SetString(PyExc_ValueError, "the position has three words");
        return -1;
    }
    Py_INCREF(versions), Py_INCREF(units), Py_INCREF(sessions), Py_INCREF(events), Py_INCREF(slots), Py_INCREF(control);
    self->versions = versions;
    self->units = units;
    self->sessions = (struct sessions_object *)sessions;
    self->events = (struct events_object *)events;
    self->slots = (struct slots *)slots;
    self->control = control;
    self->window = window;
    self->replies_bytes_max = replies_bytes_max;
    self->reply_bytes_max = reply_bytes_max;
    if (!(self->context = taken(units, "context")) || !(self->outputs = taken(units, "outputs")) ||
        !(self->quarantined = taken(units, "quarantined")) || !(self->encode = taken(units, "encode")) ||
        !(self->run_command = taken(units, "run_command")) || !(self->end_command = taken(units, "end_command")) ||
        !(self->wrong_reply = taken(units, "wrong_reply")) || !(self->commit = taken(units, "commit")) ||
        !(self->name_actor = PyUnicode_InternFromString("_actor")) ||
        !(self->name_key = PyUnicode_InternFromString("_key")))
        return -1;
    return add_lanes(self, lanes) && add_refusals(self, refusals) ? 0 : -1;
}

/* The collector must see the ring units -> commands -> units. */
static int commands_traverse(PyObject *object, visitproc visit, void *arg)
{
    struct commands *self = (struct commands *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->versions);
    Py_VISIT(self->units);
    Py_VISIT(self->context);
    Py_VISIT(self->outputs);
    Py_VISIT(self->quarantined);
    Py_VISIT(self->run_command);
    Py_VISIT(self->end_command);
    Py_VISIT(self->wrong_reply);
    Py_VISIT(self->commit);
    Py_VISIT(self->control);
    for (size_t at = 0; at < self->lanes_count; at++) {
        Py_VISIT(self->lanes[at].decode);
        Py_VISIT(self->lanes[at].instances);
        Py_VISIT(self->lanes[at].call);
        Py_VISIT(self->lanes[at].replies);
        Py_VISIT(self->lanes[at].actor);
    }
    return 0;
}

static int commands_clear(PyObject *object)
{
    struct commands *self = (struct commands *)object;
    Py_CLEAR(self->versions);
    Py_CLEAR(self->units);
    Py_CLEAR(self->context);
    Py_CLEAR(self->outputs);
    Py_CLEAR(self->quarantined);
    Py_CLEAR(self->encode);
    Py_CLEAR(self->run_command);
    Py_CLEAR(self->end_command);
    Py_CLEAR(self->wrong_reply);
    Py_CLEAR(self->commit);
    Py_CLEAR(self->control);
    Py_CLEAR(self->set_key);
    Py_CLEAR(self->name_actor);
    Py_CLEAR(self->name_key);
    for (size_t at = 0; at < STATUSES; at++)
        Py_CLEAR(self->refusals[at]);
    while (self->lanes_count) {
        struct lane *lane = &self->lanes[--self->lanes_count];
        Py_CLEAR(lane->decode);
        Py_CLEAR(lane->instances);
        Py_CLEAR(lane->call);
        Py_CLEAR(lane->replies);
        Py_CLEAR(lane->actor);
    }
    PyObject *held = (PyObject *)self->sessions;
    self->sessions = NULL;
    Py_XDECREF(held);
    held = (PyObject *)self->events;
    self->events = NULL;
    Py_XDECREF(held);
    held = (PyObject *)self->slots;
    self->slots = NULL;
    Py_XDECREF(held);
    return 0;
}

static void commands_end(PyObject *object)
{
    struct commands *self = (struct commands *)object;
    PyObject_GC_UnTrack(object);
    commands_clear(object);
    if (self->position.obj)
        PyBuffer_Release(&self->position);
    free(self->lanes);
    end_instance(object);
}

static PyMethodDef commands_methods[] = {
    {"apply", commands_apply, METH_VARARGS, "(body, index, time_ns, clock_ns, skips or None): every slot, in order."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot commands_slots[] = {
    {Py_tp_doc, "(units, sessions, events, slots, lanes, versions, position, refusals, control, window, replies_bytes_max, "
                "reply_bytes_max, slow): the loop over an entry's commands."},
    {Py_tp_new, new_instance},
    {Py_tp_init, commands_init},
    {Py_tp_dealloc, commands_end},
    {Py_tp_traverse, commands_traverse},
    {Py_tp_clear, commands_clear},
    {Py_tp_methods, commands_methods},
    {0, NULL},
};

/* The module */

/* (slots, events, (index, ordinal, number), actor type, key, message id, version, time_ns, body): what `emit` does, for
 * the roads that run in Python. */
static PyObject *put_event_from_python(PyObject *module, PyObject *arguments)
{
    (void)module;
    PyObject *slots, *events;
    unsigned long long index;
    unsigned int ordinal, number, actor_type, id, version;
    long long time_ns;
    const char *key, *body;
    Py_ssize_t key_length, body_length;
    if (!PyArg_ParseTuple(arguments, "O!O!(KII)Iy#IILy#", slots_type, &slots, events_type, &events, &index, &ordinal,
                          &number, &actor_type, &key, &key_length, &id, &version, &time_ns, &body, &body_length))
        return NULL;
    struct event event = {
        .tag = (uint16_t)id,
        .index = index,
        .ordinal = ordinal,
        .number = number,
        .actor_type = (uint16_t)actor_type,
        .key_length = (uint16_t)key_length,
        .version = version,
        .time_ns = time_ns,
    };
    if (!put_event((struct slots *)slots, (struct events_object *)events, &event, (const uint8_t *)key,
                   (const uint8_t *)body, (size_t)body_length))
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"put_event", put_event_from_python, METH_VARARGS,
     "(slots, events, position, actor type, key, message id, version, time_ns, body): an event goes out, and is kept."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "leftfold.actors._fold",
    .m_doc = "What every command costs besides its handler.",
    .m_size = -1,
    .m_methods = functions,
};

static PyTypeObject *add_type(PyObject *module, const char *name, const char *full, int size, unsigned int flags,
                              PyType_Slot *slots)
{
    PyType_Spec spec = {full, size, 0, Py_TPFLAGS_DEFAULT | flags, slots};
    PyObject *type = PyType_FromSpec(&spec);
    if (type && PyModule_AddObjectRef(module, name, type) < 0)
        Py_CLEAR(type);
    return (PyTypeObject *)type;
}

PyMODINIT_FUNC PyInit__fold(void)
{
    PyObject *module = PyModule_Create(&module_definition);
    if (!module)
        return NULL;
    slots_type = add_type(module, "Slots", "leftfold.actors._fold.Slots", sizeof(struct slots), 0, slots_slots);
    sessions_type = add_type(module, "Sessions", "leftfold.actors._fold.Sessions", sizeof(struct sessions_object), 0,
                             sessions_slots);
    events_type =
        add_type(module, "Events", "leftfold.actors._fold.Events", sizeof(struct events_object), 0, events_slots);
    commands_type = add_type(module, "Commands", "leftfold.actors._fold.Commands", sizeof(struct commands),
                             Py_TPFLAGS_HAVE_GC, commands_slots);
    if (!slots_type || !sessions_type || !events_type || !commands_type) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
