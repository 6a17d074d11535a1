//! What the examples in the documentation do not show: failures, threads, containers, and how instances end.
use super::*;
use crate::error::Error;

fn small() -> Interface {
    Interface::open(Config { max_size: 4 << 20, chunk_size: 64 << 10, ..Config::default() }).unwrap()
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let memory = small();
    for dimensions in [&[][..], &[0], &[3, 0], &[usize::MAX, 2]] {
        assert_eq!(memory.tensor::<f64>(dimensions).unwrap_err(), Error::InvalidArgument);
    }
    assert_eq!(memory.tensor::<f64>(&[1 << 20]).unwrap_err(), Error::OutOfMemory);
    assert_eq!(Tensor::from_slice(&memory, &[2, 2], &[1, 2, 3]).unwrap_err(), Error::InvalidArgument);
    assert_eq!(memory.streaming::<u64>(usize::MAX, 0).unwrap_err(), Error::InvalidArgument);
    assert_eq!(memory.streaming::<[u8; 3]>(1000, 0).unwrap_err(), Error::InvalidArgument);
    assert_eq!(memory.hierarchical::<f32>(10, f64::NAN).unwrap_err(), Error::InvalidArgument);
    let bad = Config { compression_tolerance: -1.0, ..Config::default() };
    assert_eq!(Interface::open(bad).err(), Some(Error::InvalidArgument));
    assert_eq!(memory.statistics().live, 0);
}

#[test]
#[should_panic(expected = "index [1, 3]")]
fn an_index_out_of_range_panics() {
    let tensor = small().tensor::<u8>(&[2, 3]).unwrap();
    let _ = tensor[[1, 3]];
}

#[test]
fn what_lives_in_an_instance_keeps_it_open() {
    let memory = small();
    let mut tensor = memory.tensor::<u32>(&[10, 10]).unwrap();
    drop(memory);
    tensor[[9, 9]] = 7;
    let same = std::thread::spawn(move || (tensor[99], tensor.memory.clone())).join().unwrap();
    assert_eq!((same.0, same.1.statistics().live), (7, 0));
}

#[test]
fn containers_live_in_an_instance() {
    let memory = small();
    let mut map = hashbrown::HashMap::with_hasher_in(std::hash::RandomState::new(), memory.clone());
    map.extend((0..10_000u64).map(|i| (i, i * i)));
    assert_eq!(map[&77], 5929);
    assert!(memory.statistics().live >= 160_000);
    let boxed = allocator_api2::boxed::Box::new_in([0u8; 100], memory.clone());
    assert!(crate::instance::owns(boxed.as_ptr()));
    let mut empty = allocator_api2::vec::Vec::<(), _>::new_in(memory.clone());
    empty.push(());
    let mut vector = allocator_api2::vec::Vec::<u8, _>::new_in(memory.clone());
    assert!(vector.try_reserve(1 << 30).is_err());
    drop((map, boxed, empty, vector));
    assert_eq!(memory.statistics().live, 0);
}

#[test]
fn vectors_grow_where_they_are() {
    let memory = Interface::open(Config::default()).unwrap();
    let mut numbers = allocator_api2::vec::Vec::new_in(memory.clone());
    numbers.extend(0..1u32 << 20);
    assert_eq!(numbers.iter().zip(0..).filter(|(number, i)| *number != i).count(), 0);
    #[repr(align(4096))]
    #[derive(Clone, Copy)]
    struct Page([u8; 4096]);
    let mut pages = allocator_api2::vec::Vec::new_in(memory.clone());
    for i in 0..100 {
        pages.push(Page([i; 4096]));
    }
    assert!(pages.as_ptr().is_aligned() && pages.iter().zip(0..).all(|(page, i)| page.0[4095] == i));
    drop((numbers, pages));
    assert_eq!(memory.statistics().live, 0);
}

#[test]
fn what_is_forgotten_keeps_its_instance_and_harms_nobody() {
    let memory = small();
    let mut numbers = memory.streaming::<u64>(1 << 17, 0).unwrap();
    core::mem::forget(numbers.write(0).unwrap());
    core::mem::forget(numbers.read(1).unwrap());
    numbers.write(0).unwrap()[0] = 1;
    drop(numbers);
    let mut tensor = memory.tensor::<u8>(&[100]).unwrap();
    let elements: *mut u8 = tensor.as_mut_ptr();
    core::mem::forget(tensor);
    assert_eq!(memory.statistics().live, 100);
    drop(memory);
    assert!(crate::instance::owns(elements));
}

#[test]
fn chunks_go_out_and_come_back() {
    let memory = small();
    let mut numbers = memory.streaming::<u64>((16 << 20) / 8 + 3, 0).unwrap();
    let mut next = 0..;
    for index in 0..numbers.chunk_count() {
        numbers.overwrite(index).unwrap().iter_mut().zip(&mut next).for_each(|(number, i)| *number = i);
    }
    numbers.write(3).unwrap()[0] = 1;
    let mut length = 0;
    for index in 0..numbers.chunk_count() {
        let chunk = numbers.read(index).unwrap();
        let first = (index * numbers.chunk_length()) as u64;
        let skipped = usize::from(index == 3);
        assert!(chunk.iter().zip(first..).skip(skipped).all(|(number, i)| *number == i), "chunk {index}");
        length += chunk.len();
    }
    assert_eq!((length, numbers.read(3).unwrap()[0]), (numbers.len(), 1));
    assert!(numbers.read(numbers.chunk_count()).is_err());
    let two = (numbers.read(0).unwrap(), numbers.read(0).unwrap());
    assert_eq!(two.0[5], two.1[5]);
    let mut rough = memory.hierarchical::<f32>(1 << 16, 1e-3).unwrap();
    rough.write(0).unwrap()[1] = 0.7;
    rough.advise(crate::tiers::chunks::Advice::DontNeed).unwrap();
    assert!((rough.read(0).unwrap()[1] - 0.7).abs() <= 1e-3);
}
