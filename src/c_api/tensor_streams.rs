//! Streams of `tree_tensor_network.h`: a node's elements piece by piece.
use super::guard_uncancelled;
use super::tensor_types::*;
use super::tree_tensor_network::memory;
use crate::tensor::live::{self, Session};
use crate::tensor::pair::OtherSessions;
use crate::tensor::stream::{self, Stream};
use core::ptr;
use std::time::Instant;

/// A stream over a node's elements in pieces of `chunk_size` (0: 1 MiB). NULL on failure.
///
/// # Safety
/// The pointers are a live network and a node of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn create_tensor_stream(
    ttn: *mut tree_tensor_network_t,
    node: *mut tree_tensor_node_t,
    chunk_size: usize,
) -> *mut tensor_stream_t {
    guard_uncancelled(ptr::null_mut(), || {
        let session = Session::new(ttn)?;
        let id = session.find(node)?;
        let stream = Stream::new(session.view(), &memory(&session)?, id, chunk_size)?;
        let of = session.view().node(id);
        let public = tensor_stream_t {
            chunk_size: stream.chunk,
            current_offset: 0,
            total_size: of.count(),
            buffer: stream.buffer.as_ptr().cast(),
            source: of.block().as_ptr().cast(),
            node,
            is_hierarchical: of.is_hierarchical(),
            memory_pool: ptr::null_mut(),
        };
        Ok(live::open(&session, stream, public))
    })
}

/// Ends a stream. NULL does nothing; one whose network is gone is refused.
///
/// # Safety
/// Nobody uses the stream any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn destroy_tensor_stream(stream: *mut tensor_stream_t) {
    guard_uncancelled((), || if stream.is_null() { Ok(()) } else { live::close(stream) })
}

/// Reads the next piece into `buffer`; it ends at `current_offset`. False at the end, which is no error.
///
/// # Safety
/// The pointer is a live stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn stream_next_chunk(stream: *mut tensor_stream_t) -> bool {
    guard_uncancelled(false, || {
        let (session, public, state) = live::stream(stream)?;
        // SAFETY: live, and its network's session makes this call the only user.
        let state = unsafe { &mut *state };
        let read = state.next(session.view())?;
        // SAFETY: live, and its network's session makes this call the only user.
        let public = unsafe { &mut *public };
        public.current_offset = state.offset;
        // The node may have been given another tensor meanwhile.
        let node = session.view().node(state.node);
        (public.total_size, public.source) = (node.count(), node.block().as_ptr().cast());
        Ok(read)
    })
}

/// Contracts the nodes of two streams, as `contract_tree_tensor_nodes` does, into the elements of the third's node,
/// whose dimensions must be those of the result. Only blocks of the operands are copied. The streams' positions
/// stay. After a cancelled call the result's elements are undefined.
///
/// # Safety
/// The pointers are live streams.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn contract_tensor_streams(
    stream1: *mut tensor_stream_t,
    stream2: *mut tensor_stream_t,
    result: *mut tensor_stream_t,
) -> bool {
    guard_uncancelled(false, || {
        let start = Instant::now();
        let nodes = [live::node_of_stream(stream1)?, live::node_of_stream(stream2)?];
        let (mut session, public, state) = live::stream(result)?;
        // SAFETY: live, and its network's session makes this call the only user.
        let (target, id) = unsafe { ((*public).node, (*state).node) };
        {
            let others = OtherSessions::new(&session, nodes)?;
            let pair = others.pair(nodes[0], nodes[1])?;
            debug_assert_eq!(session.find(target)?, id);
            stream::contract(&pair, session.view().node(id), &memory(&session)?, session.view())?;
        }
        stream::count(session.network(), start);
        Ok(true)
    })
}
