use super::*;

#[test]
fn new_files_are_never_overwritten_and_leave_no_temporary() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.txt");
    write_new(&path, b"one").unwrap();
    let error = write_new(&path, b"two").unwrap_err().to_string();
    assert!(error.contains("a.txt: already exists"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"one");
    replace(&path, b"three").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"three");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn the_same_bytes_may_be_written_twice() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.txt");
    write_same(&path, b"one").unwrap();
    write_same(&path, b"one").unwrap();
    let error = write_same(&path, b"two").unwrap_err().to_string();
    assert!(error.contains("a.txt: already exists with other contents"));
    assert_eq!(fs::read(&path).unwrap(), b"one");
    std::thread::scope(|scope| {
        let write = || write_same(&dir.path().join("b.txt"), b"shared");
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(write)).collect();
        threads.into_iter().for_each(|t| t.join().unwrap().unwrap());
    });
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn temporary_files_are_known_by_name() {
    for ours in [".a.csv.Xa81.tmp", ".a.csv.12-3.tmp", ".a.png.Xa81.tmp.png"] {
        assert!(is_temporary(ours), "{ours}");
    }
    for other in [
        "a.csv",
        ".a.csv",
        ".gitignore",
        "a.csv.x.tmp",
        ".a.csv.x.tmp.txt",
    ] {
        assert!(!is_temporary(other), "{other}");
    }
}

#[test]
fn leftovers_are_known_by_age_and_lock() {
    let dir = tempfile::tempdir().unwrap();
    let made = |name: &str, age: Duration| {
        let file = File::create(dir.path().join(name)).unwrap();
        let then = std::time::SystemTime::now() - age;
        file.set_modified(then).unwrap();
        file
    };
    made(".a.csv.old.tmp", 2 * UNLOCKED);
    // As the first version of this program left them, of a process number that may be in use here.
    made(".a.csv.1-0.tmp", 2 * UNLOCKED);
    made(".a.csv.young.tmp", Duration::ZERO);
    made("a.csv", 2 * OLD);
    let locked = made(".a.csv.locked.tmp", 2 * OLD);
    locked.lock().unwrap();
    let left = |alone: bool| {
        remove_leftovers(dir.path(), alone);
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        left
    };
    let old = [".a.csv.locked.tmp", ".a.csv.young.tmp", "a.csv"];
    assert_eq!(left(false), old);
    assert_eq!(left(true), [".a.csv.locked.tmp", "a.csv"]);
}

#[test]
#[cfg(unix)]
fn files_are_as_readable_as_any_other() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let mode = |name: &str| {
        fs::metadata(dir.path().join(name))
            .unwrap()
            .permissions()
            .mode()
    };
    fs::write(dir.path().join("plain"), "x").unwrap();
    write_new(&dir.path().join("new"), b"x").unwrap();
    replace_by(&dir.path().join("made.png"), |path| {
        Ok(fs::write(path, "x")?)
    })
    .unwrap();
    assert_eq!(mode("new"), mode("plain"));
    assert_eq!(mode("made.png"), mode("plain"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
}

#[test]
fn read_failures_name_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.csv");
    let text = |p: &Path| read_text(p).unwrap_err().to_string();
    assert!(text(&missing).ends_with("none.csv: no such file"));
    assert!(text(dir.path()).contains("is a directory"));
    let bad = dir.path().join("bad.txt");
    fs::write(&bad, b"ok\n\xff\xfe").unwrap();
    assert!(text(&bad).ends_with("bad.txt:2: not valid UTF-8 text"));
}
