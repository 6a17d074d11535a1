//! Streams of `tree_tensor_network.h`: a node's elements piece by piece.
use super::tensor_types::*;
use super::tree_tensor_network::memory;
use super::{guard_uncancelled, succeeds_uncancelled};
use crate::tensor::live::{self, Session};
use crate::tensor::pair::OtherSessions;
use crate::tensor::stream::{self, Stream};
use core::ptr;
use std::time::Instant;

/// Opens a stream over the elements of a node, in pieces of `chunk_size` elements (0: 1 MiB). NULL on failure.
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

/// Ends a stream. NULL does nothing. A stream whose network is destroyed is refused.
///
/// # Safety
/// Nobody uses the stream any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn destroy_tensor_stream(stream: *mut tensor_stream_t) {
    guard_uncancelled((), || if stream.is_null() { Ok(()) } else { live::close(stream) })
}

/// Reads the next piece into the stream's buffer; `current_offset` is where the piece ends. At the end it returns false
/// and sets no error.
///
/// # Safety
/// The pointer is a live stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn stream_next_chunk(stream: *mut tensor_stream_t) -> bool {
    guard_uncancelled(false, || {
        let (session, public, state) = live::stream(stream)?;
        // SAFETY: `live::stream` found that the stream is live, and the session of its network excludes other calls.
        let state = unsafe { &mut *state };
        let read = state.next(session.view())?;
        // SAFETY: as above.
        let public = unsafe { &mut *public };
        public.current_offset = state.offset;
        // Another call may have replaced the tensor of the node since the last piece.
        let node = session.view().node(state.node);
        (public.total_size, public.source) = (node.count(), node.block().as_ptr().cast());
        Ok(read)
    })
}

/// Contracts the nodes of two streams, as `contract_tree_tensor_nodes` does, into the elements of the third stream's
/// node, which must have the dimensions of the result. Only blocks of the operands are copied. The positions of the
/// streams do not change. If the progress callback stops the call, the elements of the result are undefined.
///
/// # Safety
/// The pointers are live streams.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn contract_tensor_streams(
    stream1: *mut tensor_stream_t,
    stream2: *mut tensor_stream_t,
    result: *mut tensor_stream_t,
) -> bool {
    succeeds_uncancelled(|| {
        let start = Instant::now();
        let nodes = [live::node_of_stream(stream1)?, live::node_of_stream(stream2)?];
        let (mut session, public, state) = live::stream(result)?;
        // SAFETY: `live::stream` found that the stream is live, and the session of its network excludes other calls.
        let (target, id) = unsafe { ((*public).node, (*state).node) };
        {
            let others = OtherSessions::new(&session, nodes)?;
            let pair = others.pair(nodes[0], nodes[1])?;
            debug_assert_eq!(session.find(target)?, id);
            stream::contract(&pair, session.view().node(id), &memory(&session)?, session.view())?;
        }
        stream::count(session.network(), start);
        Ok(())
    })
}
