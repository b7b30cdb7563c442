//! Order, failures, budgets and ends of the scheduler.

use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn results_are_merged_in_order(n in 0_usize..60, threads in 1_usize..6) {
        let mut merged = Vec::new();
        in_order(n, threads, |unit| Ok(unit * 3), |value| { merged.push(value); Ok(()) }, || Ok(())).unwrap();
        prop_assert_eq!(merged, (0..n).map(|unit| unit * 3).collect::<Vec<_>>());
    }

    #[test]
    fn the_first_error_in_order_is_told(n in 5_usize..60, threads in 1_usize..6, bad in 0_usize..5) {
        let mut merged = 0;
        let work = |unit| if unit >= bad { Err(DaoError::value(format!("unit {unit}"))) } else { Ok(unit) };
        let error = in_order(n, threads, work, |_| { merged += 1; Ok(()) }, || Ok(())).unwrap_err();
        prop_assert_eq!(error.to_string(), format!("unit {bad}"));
        prop_assert_eq!(merged, bad);
    }
}

#[test]
fn a_panic_is_an_internal_error_with_its_message() {
    for threads in [1, 3] {
        let work = |unit| if unit == 4 { panic!("unit {unit} is cursed") } else { Ok(unit) };
        let error = in_order(9, threads, work, |_| Ok(()), || Ok(())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(error.to_string().contains("unit 4 is cursed") && error.to_string().contains("bug"), "{error}");
    }
}

#[test]
fn an_error_of_tick_or_merge_ends_it() {
    let mut ticks = 0;
    let stop = || {
        ticks += 1;
        if ticks > 2 { Err(DaoError::value("enough")) } else { Ok(()) }
    };
    assert_eq!(in_order(1000, 2, Ok, |_| Ok(()), stop).unwrap_err().to_string(), "enough");
    let full = |unit| if unit == 7 { Err(DaoError::value("full")) } else { Ok(()) };
    assert_eq!(in_order(1000, 2, Ok, full, || Ok(())).unwrap_err().to_string(), "full");
}

/// Units of three pieces, each of which adds one; counts what goes on at once.
#[derive(Default)]
struct Counting {
    units: usize,
    estimate: u64,
    fails: Option<usize>,
    panics: Option<usize>,
    /// Units that are begun and not taken: now and at most.
    open: Arc<Mutex<(usize, usize)>>,
    threads: Arc<AtomicUsize>,
}

impl Work for Counting {
    type Unit = AtomicUsize;
    type Output = (usize, usize);

    fn n_units(&self) -> usize {
        self.units
    }

    fn n_pieces(&self, _: usize) -> usize {
        3
    }

    fn estimate(&self, _: usize) -> u64 {
        self.estimate
    }

    fn prepare(&self, unit: usize) -> Result<AtomicUsize> {
        let mut open = self.open.lock().unwrap();
        open.0 += 1;
        open.1 = open.1.max(open.0);
        if self.fails == Some(unit) { Err(DaoError::value(format!("unit {unit}"))) } else { Ok(0.into()) }
    }

    fn piece(&self, unit: usize, shared: &AtomicUsize, piece: usize, _: &AtomicBool) -> Result<()> {
        self.threads.fetch_add(1, Ordering::Relaxed);
        assert!(self.panics != Some(unit) || piece != 1, "piece {piece} of unit {unit}");
        shared.fetch_add(1, Ordering::Relaxed);
        self.threads.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    fn finish(&self, unit: usize, shared: AtomicUsize) -> Result<(usize, usize)> {
        Ok((unit, shared.into_inner()))
    }

    fn bytes(&self, _: &(usize, usize)) -> u64 {
        self.estimate
    }
}

fn all(workers: &mut Workers<Counting>) -> Result<Vec<(usize, usize)>> {
    let mut found = Vec::new();
    loop {
        match workers.next(Duration::from_millis(1))? {
            Next::Ready(result) => {
                workers.work().open.lock().unwrap().0 -= 1;
                found.push(result);
            }
            Next::Waiting => {}
            Next::Over => return Ok(found),
        }
    }
}

#[test]
fn units_of_several_pieces_come_whole_and_in_order() {
    for threads in 1..5 {
        let mut workers = Workers::start(Counting { units: 40, ..Counting::default() }, 0, threads).unwrap();
        assert_eq!(all(&mut workers).unwrap(), (0..40).map(|unit| (unit, 3)).collect::<Vec<_>>());
    }
    assert!(all(&mut Workers::start(Counting::default(), 0, 2).unwrap()).unwrap().is_empty());
}

#[test]
fn a_budget_bounds_what_is_begun_and_a_larger_unit_gets_through() {
    // What is taken may be followed by the next before the counter has seen it: one more.
    for (estimate, most) in [(40, 3), (100, 2), (1000, 2)] {
        let work = Counting { units: 30, estimate, ..Counting::default() };
        let open = work.open.clone();
        let mut workers = Workers::start(work, 100, 4).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert!(open.lock().unwrap().0 < most, "begun without being asked for");
        assert_eq!(all(&mut workers).unwrap().len(), 30);
        assert!(open.lock().unwrap().1 <= most + 1);
    }
}

#[test]
fn without_a_budget_no_more_is_begun_than_is_ahead() {
    let work = Counting { units: 1000, ..Counting::default() };
    let open = work.open.clone();
    let workers = Workers::start(work, u64::MAX, 3).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert!(open.lock().unwrap().1 <= 1 + AHEAD * 3);
    drop(workers);
}

#[test]
fn failures_end_the_work_in_order() {
    let mut workers =
        Workers::start(Counting { units: 40, fails: Some(7), ..Counting::default() }, u64::MAX, 3).unwrap();
    assert_eq!(all(&mut workers).unwrap_err().to_string(), "unit 7");
    assert!(matches!(workers.next(Duration::ZERO), Ok(Next::Over)));
    let mut workers =
        Workers::start(Counting { units: 40, panics: Some(5), ..Counting::default() }, u64::MAX, 3).unwrap();
    let error = all(&mut workers).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(error.to_string().contains("piece 1 of unit 5"), "{error}");
}

#[test]
fn dropping_workers_joins_their_threads() {
    let work = Counting { units: 100_000, ..Counting::default() };
    let (open, threads) = (work.open.clone(), work.threads.clone());
    let mut workers = Workers::start(work, u64::MAX, 3).unwrap();
    while !matches!(workers.next(Duration::from_millis(1)).unwrap(), Next::Ready(_)) {}
    drop(workers);
    assert_eq!(threads.load(Ordering::Relaxed), 0);
    assert_eq!((Arc::strong_count(&open), Arc::strong_count(&threads)), (1, 1));
}
