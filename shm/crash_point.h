/* crash_point: labels at the instants where a process could be killed, stopped or delayed.
 *
 * Nothing is there in a normal build. The harness of the tests (tests/c/ring_harness.c) is compiled with
 * -DLEFTFOLD_CRASH_POINTS, defines crash_point(), and ends or stops itself at the label it was told. */
#pragma once
#ifdef LEFTFOLD_CRASH_POINTS
void crash_point(const char *label);
#define CRASH_POINT(label) crash_point(label)
#else
#define CRASH_POINT(label) ((void)0)
#endif
