//! What is true of the file alone.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixture;

use fixture::*;
use store::*;

fn file_of(f: &Fixture) -> std::path::PathBuf {
    let Place::Sqlite(directory) = &f.place else { panic!("no file") };
    directory.path().join("t.db")
}

#[tokio::test]
async fn a_database_that_was_removed_takes_no_write_and_gives_no_empty_answer() {
    let f = Fixture::sqlite().await;
    std::fs::remove_file(file_of(&f)).unwrap();
    assert!(matches!(
        f.store.change(Scope::Installation, "test", NOW).await.err(),
        Some(StoreError::Unavailable(_))
    ));
    assert!(matches!(f.store.load().await, Err(StoreError::Unavailable(_))));
    let path = file_of(&f);
    assert!(matches!(Store::open(&path, Opening::MustExist).await.err(), Some(StoreError::Missing(_))));
    assert!(!path.exists());
}

#[tokio::test]
async fn a_file_that_is_no_database_is_said_to_be_unusable() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.db");
    std::fs::write(&path, vec![b'x'; 8192]).unwrap();
    assert!(matches!(Store::open(&path, Opening::MustExist).await.err(), Some(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn a_page_of_the_database_that_rots_is_an_error_or_changes_nothing() {
    let f = Fixture::sqlite().await.furnished().await;
    let whole = f.store.load().await.unwrap().unwrap();
    f.store.close().await;
    let file = std::fs::read(file_of(&f)).unwrap();
    assert!(!file_of(&f).with_extension("db-wal").exists(), "everything is in the file");
    let page = usize::from(u16::from_be_bytes([file[16], file[17]]));
    let (mut refused, mut unharmed) = (0, 0);
    for number in 0..file.len() / page {
        for rot in [0x00, 0xFF] {
            let scratch = tempfile::tempdir().unwrap();
            let path = scratch.path().join("t.db");
            let mut bytes = file.clone();
            bytes[number * page..(number + 1) * page].fill(rot);
            std::fs::write(&path, bytes).unwrap();
            let loaded = match Store::open(&path, Opening::MustExist).await {
                Ok(store) => store.load().await,
                Err(error) => Err(error),
            };
            match loaded {
                Ok(Some(dataset)) => {
                    assert_eq!(dataset, whole, "page {number} full of {rot:#x}");
                    unharmed += 1;
                }
                Ok(None) => panic!("page {number} full of {rot:#x}: an empty answer"),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 20 && unharmed > 0, "{refused} refused, {unharmed} unharmed");
}
