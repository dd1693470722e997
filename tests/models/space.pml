/* A ring that both sides sleep on: the consumer until there are bytes, the producer until there is
 * space.
 *
 * The producer's waiting has two words, as in shm/ring.c: `waits` in the ring, which only the
 * producer writes, and the flag of its bell. Store buffers are written out as in doorbell.pml,
 * where the sleep itself is explained. A lost wake-up on either side is an invalid end state.
 *
 * Mutants that must fail: -DNO_TAIL_BARRIER, -DNO_HEAD_BARRIER, -DNO_PRODUCER_FLAG_BARRIER,
 * -DNO_CONSUMER_FLAG_BARRIER, -DWAITS_SET_AFTER_LOOK.
 */
#define RUNS 4
#define CAPACITY 2
#define TAIL 0
#define HEAD 1
#define WAITS 2
#define FLAG 3 /* + who sleeps */
#define PRODUCER 0
#define CONSUMER 1

byte memory[5];
byte tokens[2];
chan buffer[2] = [4] of { byte, byte }; /* address, value */

inline barrier(self) { empty(buffer[self]) }

inline ring(self, sleeper) {
    if
    :: memory[FLAG + sleeper] == 1 ->
        atomic { barrier(self); won = memory[FLAG + sleeper]; memory[FLAG + sleeper] = 0 }
        if
        :: won -> tokens[sleeper]++
        :: else
        fi
    :: else
    fi
}

inline drain(self) {
    do
    :: atomic { tokens[self] > 0 -> tokens[self]-- }
    :: else -> break
    od
}

inline park(self) {
    barrier(self); /* the system call */
    atomic { tokens[self] > 0 -> tokens[self]-- }
}

active proctype machine() {
    byte address, value;
end:
    do
    :: atomic { buffer[PRODUCER]?address, value -> memory[address] = value }
    :: atomic { buffer[CONSUMER]?address, value -> memory[address] = value }
    od
}

active proctype producer() {
    byte tail = 0, head = 0; /* head as last seen */
    bool won, waiting = false;
    do
    :: tail == RUNS -> break
    :: else ->
        if
        :: tail - head == CAPACITY -> head = memory[HEAD]
        :: else
        fi;
        if
        :: tail - head < CAPACITY ->
            if
            :: waiting -> waiting = false; buffer[PRODUCER]!WAITS, 0
            :: else
            fi;
            tail++;
            buffer[PRODUCER]!TAIL, tail;
#ifndef NO_TAIL_BARRIER
            barrier(PRODUCER);
#endif
            ring(PRODUCER, CONSUMER)
        :: else ->
#ifndef WAITS_SET_AFTER_LOOK
            if
            :: !waiting -> waiting = true; buffer[PRODUCER]!WAITS, 1; barrier(PRODUCER)
            :: else
            fi;
#endif
            drain(PRODUCER);
            buffer[PRODUCER]!FLAG + PRODUCER, 1;
#ifndef NO_PRODUCER_FLAG_BARRIER
            barrier(PRODUCER);
#endif
            head = memory[HEAD];
#ifdef WAITS_SET_AFTER_LOOK
            waiting = true;
            buffer[PRODUCER]!WAITS, 1;
#endif
            if
            :: tail - head < CAPACITY
            :: else -> park(PRODUCER)
            fi;
            buffer[PRODUCER]!FLAG + PRODUCER, 0
        fi
    od
}

active proctype consumer() {
    byte tail = 0, head = 0;
    bool won;
    do
    :: head == RUNS -> break
    :: else ->
        tail = memory[TAIL];
        if
        :: tail != head ->
            assert(tail > head && tail - head <= CAPACITY);
            head++; /* one at a time, so that the producer sees a ring half empty too */
            buffer[CONSUMER]!HEAD, head;
#ifndef NO_HEAD_BARRIER
            barrier(CONSUMER);
#endif
            if
            :: memory[WAITS] == 1 -> ring(CONSUMER, PRODUCER)
            :: else
            fi
        :: else ->
            drain(CONSUMER);
            buffer[CONSUMER]!FLAG + CONSUMER, 1;
#ifndef NO_CONSUMER_FLAG_BARRIER
            barrier(CONSUMER);
#endif
            tail = memory[TAIL];
            if
            :: tail != head
            :: else -> park(CONSUMER)
            fi;
            buffer[CONSUMER]!FLAG + CONSUMER, 0
        fi
    od
}
