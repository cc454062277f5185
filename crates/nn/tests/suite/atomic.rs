//! Files that are replaced as a whole: a kill, permissions, errors.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use conditioned_nn::store::{save_tensors, write_atomic};

/// Tells the test binary, started once more, which file to write without end.
const WRITE_TO: &str = "CONDITIONED_NN_TEST_WRITE_TO";

/// Far more than a write of one page, so that a kill meets a half-written file.
const LENGTHS: [(u8, usize); 2] = [(b'a', 3_000_000), (b'b', 1_000_000)];

/// A process that does not get this far in a minute is broken, not slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// The child of the test below; without its variable there is nothing to do.
#[test]
#[ignore = "runs until it is killed, in a process of its own"]
fn write_without_end() {
    let Some(path) = std::env::var_os(WRITE_TO) else { return };
    loop {
        for (byte, length) in LENGTHS {
            write_atomic(Path::new(&path), &vec![byte; length]).unwrap();
        }
    }
}

fn writer(path: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "atomic::write_without_end", "--ignored"]).env(WRITE_TO, path);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn assert_whole(path: &Path) {
    let found = fs::read(path).unwrap();
    let whole = LENGTHS.iter().any(|&(byte, length)| found == vec![byte; length]);
    assert!(whole, "{} bytes that begin with {:?}", found.len(), found.first());
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "the writer does not write");
        std::thread::sleep(Duration::from_micros(100));
    }
}

#[test]
fn a_process_killed_while_it_writes_leaves_the_old_file_or_the_new() {
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("result.json");
        let mut child = writer(&path);
        wait_until(|| path.exists());
        (0..20).for_each(|_| assert_whole(&path));
        // A second entry is the temporary file, so the kill falls between its making and the rename.
        wait_until(|| fs::read_dir(folder.path()).unwrap().count() > 1);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_whole(&path);
        write_atomic(&path, b"and it can be written again").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"and it can be written again");
    }
}

#[test]
fn a_file_is_replaced_and_nothing_stays_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("result.json");
    for content in ["a longer old content", "new", ""] {
        write_atomic(&path, content.as_bytes()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[cfg(unix)]
#[test]
fn a_file_has_the_permissions_of_an_ordinary_one() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let [path, ordinary] = ["result.json", "ordinary.json"].map(|name| folder.path().join(name));
    write_atomic(&path, b"1").unwrap();
    fs::write(&ordinary, b"1").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&path), mode(&ordinary));
    // Written again, an ordinary file keeps the permissions that it was given.
    for path in [&path, &ordinary] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
    }
    write_atomic(&path, b"2").unwrap();
    fs::write(&ordinary, b"2").unwrap();
    assert_eq!(mode(&path), mode(&ordinary));
}

#[test]
fn an_error_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing").join("w.safetensors");
    let one = || [("w".to_string(), Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap())];
    let error = save_tensors(&missing, one(), &BTreeMap::new()).unwrap_err().to_string();
    assert!(error.contains(missing.to_str().unwrap()), "{error}");
    let error = write_atomic(&missing, b"1").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);

    let mut permissions = fs::metadata(folder.path()).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(folder.path(), permissions).unwrap();
    // The superuser, and Windows, write into read-only folders all the same.
    if fs::write(folder.path().join("probe"), b"").is_err() {
        let path = folder.path().join("w.safetensors");
        let error = save_tensors(&path, one(), &BTreeMap::new()).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert!(error.contains("ermission denied"), "{error}");
    }
}
