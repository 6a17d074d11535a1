//! Single steps of waiting, and under loom a model of who waits and who gives up.
use super::*;
use std::sync::{Mutex, MutexGuard};

/// While somebody sleeps, another thread does something once; more sleep would be for nothing.
struct Once(Mutex<Counts>, core::cell::Cell<Option<fn(&mut Counts)>>);
impl Monitor for Once {
    type Guard<'a> = MutexGuard<'a, Counts>;
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap()
    }
    fn sleep<'a>(&'a self, mut guard: MutexGuard<'a, Counts>) -> MutexGuard<'a, Counts> {
        self.1.take().expect("sleeps on")(&mut guard);
        guard
    }
    fn wake(&self) {}
}
/// Others that look before it has ended are not to think that all wait.
#[test]
fn who_gives_up_waits_no_more() {
    let waiting = one_at_work(None);
    assert!(!waiting.starve(waiting.progress(), || false));
    assert_eq!(waiting.waiting(), 0);
    waiting.begin();
    assert!(!waiting.starve(waiting.progress(), || true));
    assert_eq!((waiting.waiting(), waiting.at_work()), (0, 2));
}
fn one_at_work(other: Option<fn(&mut Counts)>) -> Waiting<Once> {
    Waiting { at_work: AtomicU32::new(1), counts: Once(Mutex::default(), core::cell::Cell::new(other)) }
}
fn stand_aside_while(other: fn(&mut Counts)) {
    let waiting = one_at_work(Some(other));
    assert!(waiting.stand_aside(waiting.useful_progress()));
}
#[test]
fn who_stands_aside_looks_again_when_another_has_ended() {
    stand_aside_while(Counts::note);
}
#[test]
#[should_panic(expected = "sleeps on")]
fn who_stands_aside_does_not_when_another_has_ended_in_vain() {
    stand_aside_while(Counts::note_in_vain);
}

mod model {
    //! Threads that want the room of chunks in place, and others that hold these without using them.
    use super::*;
    use crate::tiers::state::{Phase, Settle, State};
    use crate::tiers::word::modelled::{ModelledWord, explore};
    use loom::sync::atomic::{AtomicBool, Ordering::*};
    use loom::sync::{Arc, Condvar, Mutex, MutexGuard};

    struct ModelledMonitor(Mutex<Counts>, Condvar);
    impl Monitor for ModelledMonitor {
        type Guard<'a> = MutexGuard<'a, Counts>;
        fn lock(&self) -> MutexGuard<'_, Counts> {
            self.0.lock().unwrap()
        }
        fn sleep<'a>(&'a self, guard: MutexGuard<'a, Counts>) -> MutexGuard<'a, Counts> {
            self.1.wait(guard).unwrap()
        }
        fn wake(&self) {
            self.1.notify_all();
        }
    }

    /// One chunk that can leave, whether there is room to acquire it, and the threads at work.
    struct Model {
        waiting: Waiting<ModelledMonitor, ModelledWord>,
        chunk: State<ModelledWord>,
        room: AtomicBool,
    }
    impl Model {
        fn new() -> Arc<Model> {
            let monitor = ModelledMonitor(Mutex::new(Counts::default()), Condvar::new());
            Arc::new(Model {
                waiting: Waiting { at_work: ModelledWord::new(0), counts: monitor },
                chunk: State::new(Phase::Hot),
                room: AtomicBool::new(false),
            })
        }
        fn claim(&self) -> bool {
            let word = self.chunk.load();
            word.phase() == Phase::Hot && self.chunk.claim(word)
        }
        /// A thread that looks until there is room. Returns whether there was. It takes the chunk's place for a chunk
        /// of its own, which can leave just as well. So the model's chunk stands for both.
        fn want(&self) -> bool {
            self.waiting.begin();
            self.want_at_work()
        }
        /// Like `want`, for a thread that is at work already. When it has ended there is room to acquire the chunk.
        fn want_at_work(&self) -> bool {
            let found = loop {
                let seen = self.waiting.progress();
                if self.claim() {
                    break true;
                }
                if !self.waiting.starve(seen, || false) {
                    break false;
                }
            };
            if found {
                self.chunk.settle(Phase::Hot, Settle::default());
            }
            self.room.store(true, Release);
            self.waiting.end(End::Progress);
            found
        }
        /// A thread that acquires the chunk once there is room. Returns whether there was.
        fn acquire(&self) -> bool {
            loop {
                self.chunk.wait();
                self.waiting.begin();
                if !self.claim() {
                    self.waiting.end(End::Unnoted);
                    continue;
                }
                let since = self.waiting.useful_progress();
                let room = self.room.load(Acquire);
                self.chunk.settle(Phase::Hot, Settle::default());
                self.waiting.end(if room { End::Progress } else { End::InVain });
                if room || !self.waiting.stand_aside(since) {
                    return room;
                }
            }
        }
        /// A thread that can do without the chunk's place. Returns whether it found it.
        fn ask(&self) -> bool {
            loop {
                let seen = self.waiting.progress();
                self.waiting.begin();
                if self.claim() {
                    self.chunk.settle(Phase::Hot, Settle::default());
                    self.waiting.end(End::Progress);
                    return true;
                }
                self.waiting.end(End::Unnoted);
                if !self.waiting.progress_since(seen) {
                    return false;
                }
            }
        }
        /// A thread that claims the chunk to acquire it, and finds no room for that.
        fn claim_in_vain(&self) {
            self.waiting.begin();
            if self.claim() {
                self.chunk.settle(Phase::Hot, Settle::default());
                self.waiting.end(End::Progress);
            } else {
                self.waiting.end(End::Unnoted);
            }
        }
        /// A thread that faulted, and finds that the chunk is in place already.
        fn pin_in_vain(&self) {
            self.waiting.begin();
            if self.chunk.pin() {
                self.chunk.unpin();
            }
            self.waiting.end(End::Progress);
        }
    }
    fn all_find_room(others: &'static [fn(&Model)]) {
        explore(3, move || {
            let model = Model::new();
            let others: Vec<_> = others
                .iter()
                .map(|work| {
                    let model = model.clone();
                    loom::thread::spawn(move || work(&model))
                })
                .collect();
            assert!(model.want(), "gave up, and the chunk can leave");
            others.into_iter().for_each(|other| other.join().unwrap());
            assert_eq!((model.waiting.at_work(), model.waiting.waiting()), (0, 0));
        });
    }

    #[test]
    fn nobody_gives_up_for_what_others_claim_in_vain() {
        all_find_room(&[Model::claim_in_vain, Model::claim_in_vain]);
    }
    #[test]
    fn nobody_gives_up_for_what_others_pin() {
        all_find_room(&[Model::pin_in_vain, Model::claim_in_vain]);
    }
    #[test]
    fn nobody_gives_up_while_another_who_wanted_the_same_goes_on() {
        all_find_room(&[
            |model| assert!(model.want(), "gave up, and the chunk can leave"),
            |model| assert!(model.want(), "gave up, and the chunk can leave"),
        ]);
    }
    #[test]
    fn who_can_do_without_finds_what_others_hold_for_a_moment() {
        fn ask(model: &Model) {
            assert!(model.ask(), "gave up, and the chunk can leave");
        }
        for others in [[Model::claim_in_vain, Model::pin_in_vain], [Model::claim_in_vain, ask]] {
            explore(3, move || {
                let model = Model::new();
                let others = others.map(|work| {
                    let model = model.clone();
                    loom::thread::spawn(move || work(&model))
                });
                ask(&model);
                others.into_iter().for_each(|other| other.join().unwrap());
                assert_eq!((model.waiting.at_work(), model.waiting.waiting()), (0, 0));
            });
        }
    }
    #[test]
    fn nobody_gives_up_for_one_who_can_do_without() {
        all_find_room(&[
            |model| assert!(model.ask(), "gave up, and the chunk can leave"),
            Model::claim_in_vain,
        ]);
    }
    /// The others begin while a thread is at work that wants the chunk's place. Room to acquire comes only when that
    /// thread has ended.
    fn all_find_room_beside_one_at_work(preemptions: usize, others: &'static [fn(&Model) -> bool]) {
        explore(preemptions, move || {
            let model = Model::new();
            model.waiting.begin();
            let others: Vec<_> = others
                .iter()
                .map(|work| {
                    let model = model.clone();
                    loom::thread::spawn(move || assert!(work(&model), "there is room in the end"))
                })
                .collect();
            assert!(model.want_at_work(), "gave up, and who holds the chunk can let go");
            others.into_iter().for_each(|other| other.join().unwrap());
            assert_eq!((model.waiting.at_work(), model.waiting.waiting()), (0, 0));
        });
    }
    #[test]
    fn nobody_gives_up_for_what_another_waits_to_acquire() {
        all_find_room_beside_one_at_work(3, &[Model::acquire]);
    }
    /// The same while the thread that waits to acquire it is about to let go.
    #[test]
    fn nobody_gives_up_for_what_another_is_about_to_let_go() {
        all_find_room_beside_one_at_work(2, &[Model::acquire, Model::want]);
    }
    /// Two threads that want to acquire the chunk let go of it, one after the other, for one that wants its place.
    #[test]
    fn nobody_gives_up_for_what_others_take_turns_at() {
        all_find_room_beside_one_at_work(2, &[Model::acquire, Model::acquire]);
    }
    #[test]
    fn where_all_wait_to_acquire_all_give_up() {
        explore(3, || {
            let model = Model::new();
            let other = {
                let model = model.clone();
                loom::thread::spawn(move || assert!(!model.acquire()))
            };
            assert!(!model.acquire());
            other.join().unwrap();
            assert_eq!((model.waiting.at_work(), model.waiting.waiting()), (0, 0));
        });
    }
    #[test]
    fn where_there_is_nothing_all_give_up() {
        explore(3, || {
            let model = Model::new();
            // Somebody else's for good.
            assert!(model.claim());
            let others = [Model::want, Model::ask].map(|work| {
                let model = model.clone();
                loom::thread::spawn(move || assert!(!work(&model)))
            });
            assert!(!model.want());
            others.into_iter().for_each(|other| other.join().unwrap());
        });
    }
}
