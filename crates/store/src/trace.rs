//! What SQLite itself says it did: every statement and every changed row of every connection.
//!
//! The counters are fed by `sqlite3_trace_v2` and `sqlite3_total_changes64` and not by this
//! crate's own calls, so that a statement nobody meant to send is counted too. This is the one
//! module with unsafe code.

use crate::counters::DatabaseCounters;
use libsqlite3_sys as ffi;
use std::{
    ffi::{c_int, c_uint, c_void},
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

#[derive(Debug, Default)]
pub(crate) struct Counters {
    statements: AtomicU64,
    rows_written: AtomicU64,
}

impl Counters {
    pub(crate) fn read(&self) -> DatabaseCounters {
        DatabaseCounters {
            statements: self.statements.load(Ordering::Relaxed),
            rows_written: self.rows_written.load(Ordering::Relaxed),
        }
    }
}

/// What one connection's trace needs; freed by the trace's own close event.
struct Tap {
    counters: Arc<Counters>,
    changes_seen: AtomicU64,
}

const EVENTS: c_uint = ffi::SQLITE_TRACE_STMT | ffi::SQLITE_TRACE_PROFILE | ffi::SQLITE_TRACE_CLOSE;

/// Counts what this connection does from now on.
#[expect(unsafe_code, reason = "sqlite3_trace_v2 is a C interface with a context pointer")]
pub(crate) fn count(connection: NonNull<ffi::sqlite3>, counters: Arc<Counters>) {
    let tap = Box::into_raw(Box::new(Tap { counters, changes_seen: AtomicU64::new(0) }));
    // SAFETY: `connection` is an open handle, locked by the caller for this call. `tap` is a live
    // allocation that only `on_event` uses afterwards; it is freed by the close event, the last
    // event of a connection, or right here when the trace could not be installed.
    unsafe {
        if ffi::sqlite3_trace_v2(connection.as_ptr(), EVENTS, Some(on_event), tap.cast()) != ffi::SQLITE_OK {
            drop(Box::from_raw(tap));
        }
    }
}

#[expect(unsafe_code, reason = "called by SQLite with the pointers of its contract")]
unsafe extern "C" fn on_event(event: c_uint, context: *mut c_void, p: *mut c_void, _: *mut c_void) -> c_int {
    let tap = context.cast::<Tap>();
    match event {
        // SAFETY: SQLite passes the context of `count`, which lives until the close event.
        ffi::SQLITE_TRACE_STMT => unsafe {
            let tap = &*tap;
            tap.counters.statements.fetch_add(1, Ordering::Relaxed);
        },
        // SAFETY: as above; `p` is the statement that ended (https://www.sqlite.org/c3ref/c_trace.html),
        // so its connection is open, and reading a counter of it changes nothing.
        ffi::SQLITE_TRACE_PROFILE => unsafe {
            let tap = &*tap;
            let connection = ffi::sqlite3_db_handle(p.cast());
            let total = u64::try_from(ffi::sqlite3_total_changes64(connection)).unwrap_or(0);
            let seen = tap.changes_seen.swap(total, Ordering::Relaxed);
            tap.counters.rows_written.fetch_add(total.saturating_sub(seen), Ordering::Relaxed);
        },
        // SAFETY: the close event is the last one, and it comes once: nobody uses the tap after it.
        ffi::SQLITE_TRACE_CLOSE => unsafe {
            drop(Box::from_raw(tap));
        },
        _ => {}
    }
    0
}
