#define UNIMEM_NO_OLD_NAMES
#include <unimem/tree_tensor_network.h>
#include <unimem/tree_tensor_network.h>
#include <unimem/tree_tensor_network.h>
int main(void){return 0;}
