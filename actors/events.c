/* events: the retained events, a fifo of EVENT slots that is limited by count and by bytes; see events.py.
 *
 * What is pushed out raises the floor. An event that a handler emits is laid into the outputs and kept in one
 * step, put_event, for unit.c and, through the module, for the roads that run in Python.
 */
#include "fold.h"

static struct events *as_events(PyObject *self) { return (struct events *)self; }

static PyObject *events_new(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
    (void)names;
    unsigned long long kept_max, kept_bytes_max;
    if (!PyArg_ParseTuple(arguments, "KK", &kept_max, &kept_bytes_max))
        return NULL;
    struct events *events = new_instance(type);
    if (!events)
        return NULL;
    events->kept_max = kept_max;
    events->kept_bytes_max = kept_bytes_max;
    return (PyObject *)events;
}

static int keep(struct events *events, const uint8_t *slot, size_t length)
{
    struct fifo *kept = &events->kept;
    if (!fifo_append(kept, slot, length))
        return 0;
    while (kept->count > events->kept_max || fifo_bytes(kept) > events->kept_bytes_max) {
        struct event oldest;
        memcpy(&oldest, fifo_first(kept), sizeof oldest);
        events->floor_index = oldest.index;
        events->floor_ordinal = oldest.ordinal;
        events->floor_number = oldest.number;
        fifo_drop_first(kept);
    }
    fifo_trim(kept);
    return 1;
}

int put_event(struct slots *slots, struct events *events, struct event *event, const uint8_t *key, const uint8_t *body,
              size_t body_length)
{
    size_t length = EVENT_BYTES + event->key_length + body_length, padded = slot_padded(length);
    if (length > UINT32_MAX) {
        PyErr_SetString(PyExc_OverflowError, "an event is longer than a slot can be");
        return 0;
    }
    uint8_t *room = fifo_room(&slots->run, padded);
    if (!room) {
        PyErr_NoMemory();
        return 0;
    }
    event->length = (uint32_t)length;
    event->type = TYPE_EVENT;
    memset(room + padded - 8, 0, 8);
    memcpy(room, event, sizeof *event);
    memcpy(room + EVENT_BYTES, key, event->key_length);
    memcpy(room + EVENT_BYTES + event->key_length, body, body_length);
    fifo_grow(&slots->run, padded);
    return keep(events, room, padded);
}

PyObject *put_event_from_python(PyObject *module, PyObject *arguments)
{
    (void)module;
    PyObject *slots, *events;
    unsigned long long index;
    unsigned int ordinal, number, version;
    unsigned short actor_type, id;
    long long time_ns;
    const char *key, *body;
    Py_ssize_t key_length, body_length;
    if (!PyArg_ParseTuple(arguments, "O!O!(KII)Hy#HILy#", slots_type, &slots, events_type, &events, &index, &ordinal,
                          &number, &actor_type, &key, &key_length, &id, &version, &time_ns, &body, &body_length))
        return NULL;
    if (key_length > UINT16_MAX) {
        PyErr_SetString(PyExc_OverflowError, "a key is longer than an event can say");
        return NULL;
    }
    struct event event = {
        .tag = id,
        .index = index,
        .ordinal = ordinal,
        .number = number,
        .actor_type = actor_type,
        .key_length = (uint16_t)key_length,
        .version = version,
        .time_ns = time_ns,
    };
    if (!put_event((struct slots *)slots, as_events(events), &event, (const uint8_t *)key, (const uint8_t *)body,
                   (size_t)body_length))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *events_keep(PyObject *self, PyObject *object)
{
    size_t length;
    const uint8_t *slot = slot_of(object, EVENT_BYTES, &length);
    if (!slot)
        return NULL;
    struct event event;
    memcpy(&event, slot, sizeof event);
    if (event.type != TYPE_EVENT || EVENT_BYTES + (size_t)event.key_length > event.length) {
        PyErr_SetString(PyExc_ValueError, "these bytes are not an event");
        return NULL;
    }
    if (!keep(as_events(self), slot, length))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *events_all(PyObject *self, PyObject *unused)
{
    (void)unused;
    return fifo_list(&as_events(self)->kept);
}

/* Which events a subscriber is to have. */
struct wanted {
    uint64_t index;
    uint32_t ordinal, number; /* the position behind which they stand */
    unsigned int actor_type;  /* 0: of any */
    const char *key;          /* of length 0: any */
    Py_ssize_t key_length;
};

static int is_wanted(const struct wanted *wanted, const struct event *event, const uint8_t *key)
{
    if (wanted->actor_type && event->actor_type != wanted->actor_type)
        return 0;
    if (wanted->key_length &&
        (event->key_length != wanted->key_length || memcmp(key, wanted->key, event->key_length) != 0))
        return 0;
    if (event->index != wanted->index)
        return event->index > wanted->index;
    if (event->ordinal != wanted->ordinal)
        return event->ordinal > wanted->ordinal;
    return event->number > wanted->number;
}

static PyObject *events_after(PyObject *self, PyObject *arguments)
{
    const struct fifo *kept = &as_events(self)->kept;
    unsigned long long index, bytes_max;
    struct wanted wanted;
    if (!PyArg_ParseTuple(arguments, "KIIIy#K", &index, &wanted.ordinal, &wanted.number, &wanted.actor_type,
                          &wanted.key, &wanted.key_length, &bytes_max))
        return NULL;
    wanted.index = index;
    struct fifo run = {0};
    int partial = 0;
    size_t offset = kept->start;
    for (size_t at = 0; at < kept->count && !partial; at++) {
        const uint8_t *slot = kept->bytes + offset;
        struct event event;
        memcpy(&event, slot, sizeof event);
        size_t length = slot_padded(event.length);
        offset += length;
        if (!is_wanted(&wanted, &event, slot + EVENT_BYTES))
            continue;
        partial = run.count && fifo_bytes(&run) + length > bytes_max;
        if (!partial && !fifo_append(&run, slot, length)) {
            fifo_free(&run);
            return NULL;
        }
    }
    PyObject *found = Py_BuildValue("y#nO", run.count ? (const char *)fifo_first(&run) : "",
                                    (Py_ssize_t)fifo_bytes(&run), (Py_ssize_t)run.count, partial ? Py_True : Py_False);
    fifo_free(&run);
    return found;
}

static PyObject *events_floor(PyObject *self, void *unused)
{
    (void)unused;
    struct events *events = as_events(self);
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
    struct events *events = as_events(self);
    events->floor_index = index;
    events->floor_ordinal = ordinal;
    events->floor_number = number;
    return 0;
}

static PyObject *events_memory(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromSize_t(as_events(self)->kept.capacity);
}

static Py_ssize_t events_count(PyObject *self) { return (Py_ssize_t)as_events(self)->kept.count; }

static void events_end(PyObject *self)
{
    fifo_free(&as_events(self)->kept);
    end_instance(self);
}

static PyMethodDef methods[] = {
    {"keep", events_keep, METH_O, "Append an EVENT slot and push out the oldest beyond the limits; ValueError."},
    {"all", events_all, METH_NOARGS, "Every kept event, oldest first."},
    {"after", events_after, METH_VARARGS,
     "(index, ordinal, number, actor type or 0, key or b'', bytes_max): the kept events behind that position that "
     "match, as a run of at most bytes_max, one at least; how many; whether any were left out."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"floor", events_floor, events_set_floor, "The position of the newest event that is no longer kept.", NULL},
    {"memory_bytes", events_memory, NULL, "What the kept events take.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot parts[] = {
    {Py_tp_doc, "(kept_max, kept_bytes_max): the retained events; see events.py."},
    {Py_tp_new, events_new},
    {Py_tp_dealloc, events_end},
    {Py_tp_methods, methods},
    {Py_tp_getset, properties},
    {Py_sq_length, events_count},
    {0, NULL},
};

PyType_Spec events_spec = {
    .name = "leftfold.actors._fold.Events",
    .basicsize = sizeof(struct events),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = parts,
};
