/* commands: the loop over the slots of an entry: find the session, admit the request, run it or refuse it.
 *
 * What is told in machine.py and sessions.py is done here; how one command runs is in unit.c. An object of this
 * class takes from `Units` what it needs when it is made and keeps it. It applies one entry at a time: an entry
 * that is applied from within a handler is refused with AssertionError. An exception out of `apply` leaves the
 * state unusable, as machine.py says.
 */
#include "commands.h"

/* The loop */

/* Whether an operator had this unit skipped; -1: an exception is set. */
static int is_skipped(const struct unit *unit, PyObject *skips)
{
    if (skips == Py_None)
        return 0;
    PyObject *new_place = Py_BuildValue("KI", (unsigned long long)unit->index, unit->ordinal);
    int skipped = new_place ? PySet_Contains(skips, new_place) : -1;
    Py_XDECREF(new_place);
    return skipped;
}

/* One command, from its session on. */
static int take(struct commands *self, struct unit *unit, PyObject *skips)
{
    static const enum status statuses[] = {
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
    int skipped = is_skipped(unit, skips);
    if (skipped)
        return skipped < 0 ? 0 : answer_fixed(self, unit, STATUS_SKIPPED);
    if (COMMAND_BYTES + (size_t)command->key_length > command->length)
        return answer_fixed(self, unit, STATUS_BAD_REQUEST);
    return run(self, unit);
}

static int apply_command(struct commands *self, struct unit *unit, const struct command *command, const uint8_t *slot,
                         PyObject *skips)
{
    unit->command = command;
    unit->key = slot + COMMAND_BYTES;
    unit->body = unit->key + command->key_length; /* where `take` has seen that there is one */
    unit->body_bytes = (size_t)command->length - COMMAND_BYTES - command->key_length;
    return take(self, unit, skips);
}

static int apply_control(struct commands *self, const struct unit *unit, const struct command *command)
{
    PyObject *new_none = PyObject_CallFunction(self->control, "Hy#I", command->type, command->session,
                                               (Py_ssize_t)SESSION_ID_BYTES, unit->ordinal);
    Py_XDECREF(new_none);
    return new_none != NULL;
}

static int apply_slots(struct commands *self, struct unit *unit, const uint8_t *slots, size_t bytes, PyObject *skips)
{
    self->set_lane = NULL; /* timers and queries may have run since */
    for (size_t at = 0; at < bytes; unit->ordinal++) {
        struct command command = {0};
        if (bytes - at >= COMMAND_BYTES)
            memcpy(&command, slots + at, sizeof command);
        if (command.length < COMMAND_BYTES || command.length > bytes - at) {
            PyErr_Format(PyExc_AssertionError, "a broken slot in entry %llu", (unsigned long long)unit->index);
            return 0;
        }
        int done = command.type == TYPE_COMMAND ? apply_command(self, unit, &command, slots + at, skips)
                                                : apply_control(self, unit, &command);
        if (!done)
            return 0;
        at += slot_padded(command.length);
    }
    return 1;
}

static PyObject *commands_apply(PyObject *object, PyObject *arguments)
{
    struct commands *self = (struct commands *)object;
    Py_buffer body;
    PyObject *skips;
    unsigned long long index;
    long long time_ns, clock_ns;
    if (!PyArg_ParseTuple(arguments, "y*KLLO", &body, &index, &time_ns, &clock_ns, &skips))
        return NULL;
    int done = 0;
    if (!self->units || self->running) {
        PyErr_SetString(PyExc_AssertionError, "an entry is applied while another one is, or after the end");
    } else if (skips != Py_None && !PyAnySet_Check(skips)) {
        PyErr_SetString(PyExc_TypeError, "skips is a set or None");
    } else {
        struct unit unit = {.index = index, .time_ns = time_ns, .clock_ns = clock_ns};
        self->running = 1;
        done = apply_slots(self, &unit, body.buf, (size_t)body.len, skips);
        self->running = 0;
    }
    PyBuffer_Release(&body);
    if (!done)
        return NULL;
    Py_RETURN_NONE;
}

/* What it is made of */

static int add_lane(struct commands *self, PyObject *id, PyObject *tuple)
{
    struct lane lane = {0};
    PyObject *plain;
    if (!PyTuple_Check(tuple)) {
        PyErr_SetString(PyExc_TypeError, "a lane is a tuple");
        return 0;
    }
    lane.id = (uint16_t)PyLong_AsUnsignedLong(id);
    if (PyErr_Occurred() ||
        !PyArg_ParseTuple(tuple, "OO!OO!OHHHOO!", &lane.decode, &PyDict_Type, &lane.instances, &lane.call, &PyDict_Type,
                          &lane.replies, &lane.actor, &lane.actor_type, &lane.version, &lane.row, &plain,
                          &PyDict_Type, &lane.reply_plains))
        return 0;
    if (plain != Py_None && Py_TYPE(plain) != plain_type) {
        PyErr_SetString(PyExc_TypeError, "what reads a message is a Plain or None");
        return 0;
    }
    if (!handlers_has((struct handlers *)self->handlers, lane.row)) {
        PyErr_SetString(PyExc_ValueError, "a lane names a row that the figures do not have");
        return 0;
    }
    lane.plain = plain == Py_None ? NULL : (struct plain *)plain;
    Py_XINCREF((PyObject *)lane.plain);
    Py_INCREF(lane.reply_plains);
    Py_INCREF(lane.decode);
    Py_INCREF(lane.instances);
    Py_INCREF(lane.call);
    Py_INCREF(lane.replies);
    Py_INCREF(lane.actor);
    self->lanes[self->lanes_count++] = lane;
    self->lane_of[lane.id % LANE_HINTS] = (uint16_t)self->lanes_count;
    return 1;
}

static int add_lanes(struct commands *self, PyObject *lanes)
{
    self->lanes = calloc((size_t)PyDict_Size(lanes) + 1, sizeof *self->lanes);
    if (!self->lanes) {
        PyErr_NoMemory();
        return 0;
    }
    PyObject *id, *lane;
    for (Py_ssize_t at = 0; PyDict_Next(lanes, &at, &id, &lane);)
        if (!add_lane(self, id, lane))
            return 0;
    return 1;
}

static int add_versions(struct commands *self, PyObject *versions)
{
    if (!PyDict_Size(versions))
        return 1;
    self->versions = calloc(UINT16_MAX + 1, sizeof *self->versions);
    if (!self->versions) {
        PyErr_NoMemory();
        return 0;
    }
    PyObject *id_object, *version_object;
    for (Py_ssize_t at = 0; PyDict_Next(versions, &at, &id_object, &version_object);) {
        unsigned long id = PyLong_AsUnsignedLong(id_object), version = PyLong_AsUnsignedLong(version_object);
        if (PyErr_Occurred())
            return 0;
        if (id > UINT16_MAX || version > UINT8_MAX) {
            PyErr_SetString(PyExc_ValueError, "versions are bytes by message id");
            return 0;
        }
        self->versions[id] = (uint8_t)version;
    }
    return 1;
}

static int add_refusals(struct commands *self, PyObject *refusals)
{
    PyObject *status, *text;
    for (Py_ssize_t at = 0; PyDict_Next(refusals, &at, &status, &text);) {
        unsigned long number = PyLong_AsUnsignedLong(status);
        if (PyErr_Occurred())
            return 0;
        if (number >= STATUSES || !PyBytes_Check(text)) {
            PyErr_SetString(PyExc_ValueError, "refusals are bytes by status");
            return 0;
        }
        Py_INCREF(text);
        self->refusals[number] = text;
    }
    for (size_t at = 0; at < STATUSES; at++)
        if (!self->refusals[at] && !(self->refusals[at] = bytes_from(NULL, 0)))
            return 0;
    return 1;
}

static int add_position(struct commands *self, PyObject *position)
{
    if (PyObject_GetBuffer(position, &self->position, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS) < 0)
        return 0;
    if (self->position.len < 3 * (Py_ssize_t)sizeof(uint64_t) || (uintptr_t)self->position.buf % sizeof(uint64_t)) {
        PyErr_SetString(PyExc_ValueError, "the position is three aligned words");
        return 0;
    }
    return 1;
}

static int add_units(struct commands *self, PyObject *units)
{
    const struct {
        const char *name;
        PyObject **place;
    } attributes[] = {
        {"context", &self->context},         {"outputs", &self->outputs},         {"quarantined", &self->quarantined},
        {"encode", &self->encode},           {"run_command", &self->run_command}, {"refuse_body", &self->refuse_body},
        {"end_command", &self->end_command}, {"wrong_reply", &self->wrong_reply}, {"commit", &self->commit},
        {"handlers", &self->handlers},
    };
    for (size_t at = 0; at < sizeof attributes / sizeof *attributes; at++)
        if (!(*attributes[at].place = PyObject_GetAttrString(units, attributes[at].name)))
            return 0;
    if (!PyList_Check(self->outputs) || !PyDict_Check(self->quarantined) || Py_TYPE(self->handlers) != handlers_type) {
        PyErr_SetString(PyExc_TypeError, "outputs is a list, quarantined a dict, and handlers a Handlers");
        return 0;
    }
    Py_INCREF(units);
    self->units = units;
    return (self->name_actor = PyUnicode_InternFromString("_actor")) &&
           (self->name_key = PyUnicode_InternFromString("_key"));
}

static PyObject *commands_new(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
    (void)names;
    PyObject *units, *sessions, *events, *slots, *lanes, *versions, *position, *refusals, *control;
    unsigned long long window, replies_bytes_max, reply_bytes_max;
    int slow;
    if (!PyArg_ParseTuple(arguments, "OO!O!O!O!O!OO!OKKKp", &units, sessions_type, &sessions, events_type, &events,
                          slots_type, &slots, &PyDict_Type, &lanes, &PyDict_Type, &versions, &position, &PyDict_Type,
                          &refusals, &control, &window, &replies_bytes_max, &reply_bytes_max, &slow))
        return NULL;
    if (reply_bytes_max > UINT32_MAX / 2) {
        PyErr_SetString(PyExc_ValueError, "reply_bytes_max is more than a slot can hold");
        return NULL;
    }
    struct commands *self = new_instance(type);
    if (!self)
        return NULL;
    Py_INCREF(sessions);
    Py_INCREF(events);
    Py_INCREF(slots);
    Py_INCREF(control);
    self->sessions = (struct sessions_object *)sessions;
    self->events = (struct events *)events;
    self->slots = (struct slots *)slots;
    self->control = control;
    self->window = window;
    self->replies_bytes_max = replies_bytes_max;
    self->reply_bytes_max = reply_bytes_max;
    self->slow = slow;
    if (!add_units(self, units) || !add_lanes(self, lanes) || !add_versions(self, versions) ||
        !add_refusals(self, refusals) || !add_position(self, position)) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    return (PyObject *)self;
}

/* The collector must see the ring units -> commands -> units. What can be in no ring is not shown to it: bytes,
 * text, the three objects of this module, and the position, whose buffer is only released at the end. */
static int commands_traverse(PyObject *object, visitproc visit, void *arg)
{
    struct commands *self = (struct commands *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->units);
    Py_VISIT(self->context);
    Py_VISIT(self->outputs);
    Py_VISIT(self->quarantined);
    Py_VISIT(self->encode);
    Py_VISIT(self->run_command);
    Py_VISIT(self->refuse_body);
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
        Py_VISIT((PyObject *)self->lanes[at].plain);
        Py_VISIT(self->lanes[at].reply_plains);
    }
    return 0;
}

static int commands_clear(PyObject *object)
{
    struct commands *self = (struct commands *)object;
    Py_CLEAR(self->units);
    Py_CLEAR(self->context);
    Py_CLEAR(self->outputs);
    Py_CLEAR(self->quarantined);
    Py_CLEAR(self->encode);
    Py_CLEAR(self->run_command);
    Py_CLEAR(self->refuse_body);
    Py_CLEAR(self->end_command);
    Py_CLEAR(self->wrong_reply);
    Py_CLEAR(self->commit);
    Py_CLEAR(self->control);
    while (self->lanes_count) {
        struct lane lane = self->lanes[--self->lanes_count];
        Py_DECREF(lane.decode);
        Py_DECREF(lane.instances);
        Py_DECREF(lane.call);
        Py_DECREF(lane.replies);
        Py_DECREF(lane.actor);
        Py_XDECREF((PyObject *)lane.plain);
        Py_DECREF(lane.reply_plains);
    }
    return 0;
}

static void commands_end(PyObject *object)
{
    struct commands *self = (struct commands *)object;
    PyObject_GC_UnTrack(object);
    commands_clear(object);
    Py_XDECREF((PyObject *)self->sessions);
    Py_XDECREF((PyObject *)self->events);
    Py_XDECREF((PyObject *)self->slots);
    Py_XDECREF(self->handlers);
    Py_XDECREF(self->set_key);
    Py_XDECREF(self->name_actor);
    Py_XDECREF(self->name_key);
    for (size_t at = 0; at < STATUSES; at++)
        Py_XDECREF(self->refusals[at]);
    if (self->position.obj)
        PyBuffer_Release(&self->position);
    free(self->lanes);
    free(self->versions);
    end_instance(object);
}

static PyMethodDef methods[] = {
    {"apply", commands_apply, METH_VARARGS, "(body, index, time_ns, clock_ns, skips or None): every slot, in order."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot parts[] = {
    {Py_tp_doc, "(units, sessions, events, slots, lanes, versions, position, refusals, control, window, "
                "replies_bytes_max, reply_bytes_max, slow): the loop over an entry's commands."},
    {Py_tp_new, commands_new},
    {Py_tp_dealloc, commands_end},
    {Py_tp_traverse, commands_traverse},
    {Py_tp_clear, commands_clear},
    {Py_tp_methods, methods},
    {0, NULL},
};

PyType_Spec commands_spec = {
    .name = "leftfold.actors._fold.Commands",
    .basicsize = sizeof(struct commands),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = parts,
};
