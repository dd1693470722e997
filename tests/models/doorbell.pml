/* The doorbell of shm/doorbell.h: one sleeper, WAKERS wakers, each with a ring of its own to write
 * to.
 *
 * Spin assumes sequential consistency, so the store buffers of a TSO machine are written out: each
 * process stores into a FIFO of its own, and a process of the machine moves one store at a time to
 * memory. A barrier (what a seq_cst store has behind it) waits until the own buffer is empty; so do
 * a locked exchange and a system call. Loads read memory; nobody loads what he stored himself.
 *
 * A lost wake-up is an invalid end state: the sleeper parked, bytes there, no token and nobody to
 * post. Mutants that must fail: -DNO_WAKER_BARRIER, -DNO_SLEEPER_BARRIER, -DNO_SECOND_LOOK,
 * -DDRAIN_AFTER_FLAG.
 */
#define WAKERS 2
#define PUBLICATIONS 2
#define FLAG WAKERS /* the address of the flag; below it the tails */
#define SLEEPER WAKERS

byte memory[WAKERS + 1];
byte tokens; /* of the semaphore */
chan buffer[WAKERS + 1] = [3] of { byte, byte }; /* address, value */

inline barrier(self) { empty(buffer[self]) }

active proctype machine() {
    byte address, value;
end:
    do
    :: atomic { buffer[0]?address, value -> memory[address] = value }
    :: atomic { buffer[1]?address, value -> memory[address] = value }
    :: atomic { buffer[2]?address, value -> memory[address] = value }
    od
}

proctype waker(byte self) {
    byte tail = 0;
    bool won;
    do
    :: tail == PUBLICATIONS -> break
    :: else ->
        tail++;
        buffer[self]!self, tail;
#ifndef NO_WAKER_BARRIER
        barrier(self);
#endif
        if
        :: memory[FLAG] == 1 ->
            atomic { barrier(self); won = memory[FLAG]; memory[FLAG] = 0 }
            if
            :: won -> tokens++
            :: else
            fi
        :: else
        fi
    od
}

inline drain() {
    do
    :: atomic { tokens > 0 -> tokens-- }
    :: else -> break
    od
}

/* One ring after the other, as look() does. */
inline look() {
    found = (memory[0] != head[0]);
    found = found || (memory[1] != head[1])
}

proctype sleeper() {
    byte head[WAKERS];
    bool found;
    do
    :: head[0] == PUBLICATIONS && head[1] == PUBLICATIONS -> break
    :: else ->
        head[0] = memory[0];
        head[1] = memory[1];
        look();
        if
        :: found || (head[0] == PUBLICATIONS && head[1] == PUBLICATIONS)
        :: else ->
#ifndef DRAIN_AFTER_FLAG
            drain();
#endif
            buffer[SLEEPER]!FLAG, 1;
#ifndef NO_SLEEPER_BARRIER
            barrier(SLEEPER);
#endif
#ifdef DRAIN_AFTER_FLAG
            look();
            drain();
#elif !defined(NO_SECOND_LOOK)
            look();
#endif
            if
            :: found
            :: else ->
                barrier(SLEEPER); /* the system call */
                atomic { tokens > 0 -> tokens-- }
            fi;
            buffer[SLEEPER]!FLAG, 0
        fi
    od
}

init {
    atomic {
        run sleeper();
        run waker(0);
        run waker(1)
    }
}
