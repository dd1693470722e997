/* shm_table: whether the table of shm's functions (shm/calls.h) is the one that this module was
 * compiled with. Both modules come from one build; a stale one would call a wrong address.
 */
#ifndef CFFI_CDEF
#pragma once
#include "calls.h"
#endif

int shm_table_fits(const struct shm_calls *calls);
