/* shm_table: see shm_table.h. */
#include "shm_table.h"

int shm_table_fits(const struct shm_calls *calls)
{
    return calls->table_bytes == sizeof *calls;
}
