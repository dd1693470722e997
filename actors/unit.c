/* unit: one command on the road that nearly all of them take, from its bytes to its reply.
 *
 * This is Units.run_command of unit.py, less what is rare: for an actor that comes into being, a quarantined one,
 * a message of another version, strict mode and anything that raises, Python is called, so that each rule has one
 * place. What is the same on both roads, to the byte, is told there and tested by running both.
 *
 * A handler may do what it likes to the objects it can reach, so what is used after it is held by a reference.
 */
#include <stdio.h>

#include "commands.h"

/* Replies */

static uint16_t version_of(const struct commands *self, uint16_t id) { return self->versions ? self->versions[id] : 0; }

/* Lay a REPLY into the outputs; its place, or NULL. */
static const uint8_t *put_reply(struct commands *self, const struct unit *unit, enum status status, uint16_t id,
                                const uint8_t *text, size_t text_bytes)
{
    size_t length = REPLY_BYTES + text_bytes, padded = slot_padded(length);
    uint8_t *room = fifo_room(&self->slots->run, padded);
    if (!room) {
        PyErr_NoMemory();
        return NULL;
    }
    struct reply reply = {
        .length = (uint32_t)length,
        .type = TYPE_REPLY,
        .tag = id,
        .request = unit->command->request,
        .index = unit->index,
        .ordinal = unit->ordinal,
        .status = (uint16_t)status,
        .version = version_of(self, id),
    };
    memcpy(reply.session, unit->command->session, SESSION_ID_BYTES);
    memset(room + padded - 8, 0, 8);
    memcpy(room, &reply, sizeof reply);
    memcpy(room + REPLY_BYTES, text, text_bytes);
    fifo_grow(&self->slots->run, padded);
    return room;
}

int answer(struct commands *self, const struct unit *unit, enum status status, uint16_t id, const uint8_t *text,
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

int answer_fixed(struct commands *self, const struct unit *unit, enum status status)
{
    Py_ssize_t length;
    const uint8_t *text = bytes_of(self->refusals[status], &length);
    return text && answer(self, unit, status, 0, text, (size_t)length);
}

int refuse(struct commands *self, const struct unit *unit, enum status status)
{
    Py_ssize_t length;
    const uint8_t *text = bytes_of(self->refusals[status], &length);
    return text && put_reply(self, unit, status, 0, text, (size_t)length);
}

/* Answer with (status, id, text), as Python gives it. Takes the reference; NULL: an exception is set. */
static int answer_with(struct commands *self, const struct unit *unit, PyObject *new_found)
{
    if (!new_found)
        return 0;
    int done = 0;
    unsigned short status, id;
    const char *text;
    Py_ssize_t length;
    if (PyArg_ParseTuple(new_found, "HHy#", &status, &id, &text, &length))
        done = answer(self, unit, status, id, (const uint8_t *)text, (size_t)length);
    Py_DECREF(new_found);
    return done;
}

/* The roads in Python. They set the context, so what it holds is unknown after them. */

static int run_slowly(struct commands *self, const struct unit *unit)
{
    const struct command *command = unit->command;
    self->set_lane = NULL;
    return answer_with(self, unit,
                       PyObject_CallFunction(self->run_command, "IHHy#y#", unit->ordinal, command->tag,
                                             command->version, unit->key, (Py_ssize_t)command->key_length, unit->body,
                                             (Py_ssize_t)unit->body_bytes));
}

/* The exception that is set, as an object; it is set no longer. */
static PyObject *take_raised(void)
{
    PyObject *new_type, *new_error, *new_traceback;
    PyErr_Fetch(&new_type, &new_error, &new_traceback);
    PyErr_NormalizeException(&new_type, &new_error, &new_traceback);
    if (new_traceback)
        PyException_SetTraceback(new_error, new_traceback);
    Py_XDECREF(new_type);
    Py_XDECREF(new_traceback);
    return new_error;
}

/* The body does not decode. What is no Exception, and MemoryError, concern the process and not the command. */
static int end_undecoded(struct commands *self, const struct unit *unit)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception) || PyErr_ExceptionMatches(PyExc_MemoryError))
        return 0;
    PyObject *new_error = take_raised();
    int done = answer_with(self, unit, PyObject_CallFunctionObjArgs(self->refuse_body, new_error, NULL));
    Py_XDECREF(new_error);
    return done;
}

/* The handler, or what came after it, raised: Python decides what becomes of it. */
static int end_raised(struct commands *self, const struct unit *unit)
{
    PyObject *new_error = take_raised();
    self->set_lane = NULL;
    int done = answer_with(self, unit, PyObject_CallFunction(self->end_command, "OHy#", new_error, unit->command->tag,
                                                             unit->key, (Py_ssize_t)unit->command->key_length));
    Py_XDECREF(new_error);
    return done;
}

/* The road in C */

static struct lane *lane_of(struct commands *self, uint16_t id)
{
    size_t hint = self->lane_of[id % LANE_HINTS];
    if (hint && self->lanes[hint - 1].id == id)
        return &self->lanes[hint - 1];
    for (size_t at = 0; at < self->lanes_count; at++)
        if (self->lanes[at].id == id)
            return &self->lanes[at];
    return NULL;
}

/* Make the context that of this command, touching only what differs from the one before. */
static int set_context(struct commands *self, const struct lane *lane, const struct unit *unit)
{
    const struct lane *set_lane = self->set_lane;
    size_t key_length = unit->command->key_length;
    self->set_lane = NULL; /* until all of it is done */
    if (set_lane != lane && PyObject_SetAttr(self->context, self->name_actor, lane->actor) < 0)
        return 0;
    Py_ssize_t length = -1;
    const uint8_t *held = self->set_key ? bytes_of(self->set_key, &length) : NULL;
    int is_same = length == (Py_ssize_t)key_length && memcmp(held, unit->key, key_length) == 0;
    if (!is_same) {
        PyObject *new_key = bytes_from(unit->key, key_length);
        if (!new_key)
            return 0;
        Py_XDECREF(self->set_key);
        self->set_key = new_key;
    }
    if (!(is_same && set_lane) && PyObject_SetAttr(self->context, self->name_key, self->set_key) < 0)
        return 0;
    self->set_lane = lane;
    return 1;
}

/* Whether the actor of the context is quarantined; -1: an exception is set. */
static int is_quarantined(const struct commands *self, const struct lane *lane)
{
    if (!PyDict_Size(self->quarantined))
        return 0;
    PyObject *new_name = Py_BuildValue("HO", lane->actor_type, self->set_key);
    int found = new_name ? PyDict_Contains(self->quarantined, new_name) : -1;
    Py_XDECREF(new_name);
    return found;
}

/* An event goes out: (actor type, key, message id, body), as Context.emit leaves it. */
static int emit(struct commands *self, const struct unit *unit, uint32_t number, PyObject *output)
{
    PyObject *key_object = PyTuple_GetItem(output, 1), *body_object = PyTuple_GetItem(output, 3);
    if (!key_object || !body_object)
        return 0;
    Py_ssize_t key_length, body_length;
    const uint8_t *key = bytes_of(key_object, &key_length), *body = bytes_of(body_object, &body_length);
    unsigned long actor_type = PyLong_AsUnsignedLong(PyTuple_GetItem(output, 0));
    uint16_t id = (uint16_t)PyLong_AsUnsignedLong(PyTuple_GetItem(output, 2));
    if (PyErr_Occurred())
        return 0;
    struct event event = {
        .tag = id,
        .index = unit->index,
        .ordinal = unit->ordinal,
        .number = number,
        .actor_type = (uint16_t)actor_type,
        .key_length = (uint16_t)key_length,
        .version = version_of(self, id),
        .time_ns = unit->time_ns,
    };
    return put_event(self->slots, self->events, &event, key, body, (size_t)body_length);
}

/* Let the outputs of the handler happen: here, if all of them are events. */
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

/* A reply as it will go out. */
struct encoded {
    uint16_t id;
    const uint8_t *text; /* in one of the two that follow */
    size_t length;
    PyObject *new_text;
    uint8_t plain_text[PLAIN_TEXT_BYTES];
};

/* Find what belongs to the class of this reply. 0: it is none that was promised: an exception is set. */
static int find_reply(struct commands *self, struct lane *lane, PyObject *result)
{
    PyTypeObject *type = Py_TYPE(result);
    if (type == lane->reply_type)
        return 1;
    PyObject *id = PyDict_GetItemWithError(lane->replies, (PyObject *)type);
    if (!id) {
        if (!PyErr_Occurred()) {
            PyObject *new_none = PyObject_CallFunctionObjArgs(self->wrong_reply, result, NULL);
            Py_XDECREF(new_none);
        }
        return 0;
    }
    PyObject *plain = PyDict_GetItemWithError(lane->reply_plains, (PyObject *)type);
    unsigned long reply_id = PyLong_AsUnsignedLong(id);
    if (PyErr_Occurred())
        return 0;
    lane->reply_id = (uint16_t)reply_id;
    lane->reply_plain = plain && Py_TYPE(plain) == plain_type ? (const struct plain *)plain : NULL;
    lane->reply_type = type;
    return 1;
}

/* 0: an exception is set; there is none that was promised, or it cannot be encoded. */
static int encode(struct commands *self, struct lane *lane, PyObject *result, struct encoded *encoded)
{
    if (!find_reply(self, lane, result))
        return 0;
    encoded->id = lane->reply_id;
    encoded->text = encoded->plain_text;
    if (!encoded->id)
        return 1;
    if (lane->reply_plain && (encoded->length = plain_encode(lane->reply_plain, result, encoded->plain_text)))
        return 1;
    Py_ssize_t length;
    encoded->new_text = PyObject_CallFunctionObjArgs(self->encode, result, NULL);
    if (!encoded->new_text || !(encoded->text = bytes_of(encoded->new_text, &length)))
        return 0;
    encoded->length = (size_t)length;
    return 1;
}

static int answer_encoded(struct commands *self, const struct unit *unit, const struct encoded *encoded)
{
    if (encoded->length <= self->reply_bytes_max)
        return answer(self, unit, STATUS_OK, encoded->id, encoded->text, encoded->length);
    char sentence[64];
    int written = snprintf(sentence, sizeof sentence, "the reply has %zu bytes", encoded->length);
    return answer(self, unit, STATUS_REPLY_TOO_LARGE, 0, (const uint8_t *)sentence, (size_t)written);
}

/* The message in the body; NULL: an exception is set. */
static PyObject *decode(const struct unit *unit, const struct lane *lane)
{
    if (lane->plain) {
        PyObject *new_message = plain_decode(lane->plain, unit->body, unit->body_bytes);
        if (new_message || PyErr_Occurred())
            return new_message;
    }
    PyObject *new_body = bytes_from(unit->body, unit->body_bytes);
    PyObject *new_message = new_body ? PyObject_CallFunctionObjArgs(lane->decode, new_body, NULL) : NULL;
    Py_XDECREF(new_body);
    return new_message;
}

/* A command whose actor is there and that nothing speaks against. Holds `instance` itself. */
static int run_handler(struct commands *self, const struct unit *unit, struct lane *lane, PyObject *instance)
{
    PyObject *new_message = decode(unit, lane);
    if (!new_message)
        return end_undecoded(self, unit);
    Py_INCREF(instance); /* whatever the handler does to the table of actors */
    PyObject *new_result = handlers_call((struct handlers *)self->handlers, lane->row, lane->call, instance,
                                         new_message, self->context);
    struct encoded encoded;
    encoded.length = 0;
    encoded.new_text = NULL;
    int done;
    /* It is encoded before the sends, which may change what it refers to. */
    if (new_result && encode(self, lane, new_result, &encoded) && (!PyList_Size(self->outputs) || commit(self, unit)))
        done = answer_encoded(self, unit, &encoded);
    else
        done = end_raised(self, unit);
    Py_XDECREF(encoded.new_text);
    Py_XDECREF(new_result);
    Py_DECREF(instance);
    Py_DECREF(new_message);
    return done;
}

int run(struct commands *self, const struct unit *unit)
{
    const struct command *command = unit->command;
    struct lane *lane = lane_of(self, command->tag);
    if (!lane || lane->version != command->version || self->slow)
        return run_slowly(self, unit);
    uint64_t *position = self->position.buf;
    position[1] = unit->ordinal;
    position[2] = command->tag;
    if (!set_context(self, lane, unit))
        return 0;
    PyObject *instance = PyDict_GetItemWithError(lane->instances, self->set_key);
    if (!instance)
        return PyErr_Occurred() ? 0 : run_slowly(self, unit);
    int quarantined = is_quarantined(self, lane);
    if (quarantined)
        return quarantined < 0 ? 0 : run_slowly(self, unit);
    return run_handler(self, unit, lane, instance);
}
