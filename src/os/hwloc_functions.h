/* hwloc_functions.h - every function of libhwloc that the crate hwlocality (feature hwloc-2_1_0) can call.
 * After an update of the crate: `cargo build`, then `nm target/debug/deps/libhwlocality-*.rlib | grep 'U hwloc_'`,
 * plus hwloc_set_area_membind, which is generic there. */
#define HWLOC_FUNCTIONS(X) \
    X(hwloc_alloc) X(hwloc_bitmap_allbut) X(hwloc_bitmap_alloc) X(hwloc_bitmap_alloc_full) X(hwloc_bitmap_and) \
    X(hwloc_bitmap_andnot) X(hwloc_bitmap_clr) X(hwloc_bitmap_clr_range) X(hwloc_bitmap_compare) \
    X(hwloc_bitmap_copy) X(hwloc_bitmap_dup) X(hwloc_bitmap_fill) X(hwloc_bitmap_first) X(hwloc_bitmap_first_unset) \
    X(hwloc_bitmap_free) X(hwloc_bitmap_intersects) X(hwloc_bitmap_isequal) X(hwloc_bitmap_isfull) \
    X(hwloc_bitmap_isincluded) X(hwloc_bitmap_isset) X(hwloc_bitmap_iszero) X(hwloc_bitmap_last) \
    X(hwloc_bitmap_last_unset) X(hwloc_bitmap_list_snprintf) X(hwloc_bitmap_next) X(hwloc_bitmap_next_unset) \
    X(hwloc_bitmap_not) X(hwloc_bitmap_only) X(hwloc_bitmap_or) X(hwloc_bitmap_set) X(hwloc_bitmap_set_range) \
    X(hwloc_bitmap_singlify) X(hwloc_bitmap_weight) X(hwloc_bitmap_xor) X(hwloc_bitmap_zero) X(hwloc_compare_types) \
    X(hwloc_distances_get) X(hwloc_distances_get_by_depth) X(hwloc_distances_get_by_name) \
    X(hwloc_distances_get_by_type) X(hwloc_distances_get_name) X(hwloc_distances_release) X(hwloc_free) \
    X(hwloc_free_xmlbuffer) X(hwloc_get_api_version) X(hwloc_get_cpubind) X(hwloc_get_depth_type) \
    X(hwloc_get_last_cpu_location) X(hwloc_get_memory_parents_depth) X(hwloc_get_nbobjs_by_depth) \
    X(hwloc_get_obj_by_depth) X(hwloc_get_proc_cpubind) X(hwloc_get_proc_last_cpu_location) \
    X(hwloc_get_thread_cpubind) X(hwloc_get_type_depth) X(hwloc_linux_get_tid_cpubind) \
    X(hwloc_linux_get_tid_last_cpu_location) X(hwloc_linux_read_path_as_cpumask) X(hwloc_linux_set_tid_cpubind) \
    X(hwloc_obj_attr_snprintf) X(hwloc_obj_type_is_cache) X(hwloc_obj_type_is_dcache) X(hwloc_obj_type_is_icache) \
    X(hwloc_obj_type_is_io) X(hwloc_obj_type_is_memory) X(hwloc_obj_type_is_normal) X(hwloc_obj_type_snprintf) \
    X(hwloc_set_area_membind) X(hwloc_set_cpubind) X(hwloc_set_membind) X(hwloc_set_proc_membind) \
    X(hwloc_topology_abi_check) X(hwloc_topology_check) X(hwloc_topology_destroy) \
    X(hwloc_topology_export_synthetic) X(hwloc_topology_export_xml) X(hwloc_topology_export_xmlbuffer) \
    X(hwloc_topology_get_allowed_cpuset) X(hwloc_topology_get_allowed_nodeset) \
    X(hwloc_topology_get_complete_cpuset) X(hwloc_topology_get_complete_nodeset) X(hwloc_topology_get_depth) \
    X(hwloc_topology_get_flags) X(hwloc_topology_get_support) X(hwloc_topology_get_topology_cpuset) \
    X(hwloc_topology_get_topology_nodeset) X(hwloc_topology_get_type_filter) X(hwloc_topology_init) \
    X(hwloc_topology_is_thissystem) X(hwloc_topology_load) X(hwloc_topology_set_all_types_filter) \
    X(hwloc_topology_set_cache_types_filter) X(hwloc_topology_set_components) X(hwloc_topology_set_flags) \
    X(hwloc_topology_set_icache_types_filter) X(hwloc_topology_set_io_types_filter) X(hwloc_topology_set_pid) \
    X(hwloc_topology_set_synthetic) X(hwloc_topology_set_type_filter) X(hwloc_topology_set_xml) \
    X(hwloc_topology_set_xmlbuffer)
