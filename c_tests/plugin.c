/* plugin.c - a plug-in that has a copy of libunimem.a of its own, for copies.c. */
#include "copies.h"

const copy_t *plugin_copy(void);
const copy_t *plugin_copy(void) {
    static const copy_t copy = {COPY_FUNCTIONS(COPY_ADDRESS)};
    return &copy;
}
