//! Records the commit and compiler that a binary was built from.

use std::io::Write;
use std::process::{Command, Stdio};

/// What a binary is built from.
const SOURCES: [&str; 4] = ["../crates", ".", "../Cargo.toml", "../Cargo.lock"];

fn main() {
    // Whatever can change the commit or the difference to it.
    for path in ["../.git/HEAD", "../.git/index"].iter().chain(&SOURCES) {
        println!("cargo::rerun-if-changed={path}");
    }
    let unknown = || "unknown".to_string();
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(unknown);
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_string());
    let rustc = output(&rustc, &["--version"]).unwrap_or_else(unknown);
    println!("cargo::rustc-env=BUILD_COMMIT={commit}{}", changes().unwrap_or_default());
    println!("cargo::rustc-env=BUILD_RUSTC={rustc}");
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    output.status.success().then(|| text.trim().to_string())
}

/// `+changes.HASH` where the sources are not those of the commit: two trees with changes are not the same one.
/// Nothing where there is no git to ask.
fn changes() -> Option<String> {
    let of_sources = |arguments: &[&str]| output("git", &[arguments, &["--"], &SOURCES].concat());
    let status = of_sources(&["status", "--porcelain"])?;
    if status.is_empty() {
        return None;
    }
    let hash = || {
        let difference = of_sources(&["diff", "--no-ext-diff", "--binary", "HEAD"])?;
        // What git does not follow yet is in no difference.
        let new = of_sources(&["ls-files", "--others", "--exclude-standard"])?;
        let contents =
            new.lines().map(|file| Some(format!("{file} {}", hash(&std::fs::read(file).ok()?)?)));
        let contents = contents.collect::<Option<Vec<_>>>()?.join("\n");
        hash(format!("{status}\n{difference}\n{contents}").as_bytes())
    };
    Some(hash().map_or_else(|| "+changes".to_string(), |hash| format!("+changes.{hash}")))
}

/// The hash that git gives bytes, shortened.
fn hash(bytes: &[u8]) -> Option<String> {
    let mut git = Command::new("git")
        .args(["hash-object", "--stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    git.stdin.take()?.write_all(bytes).ok()?;
    let hash = String::from_utf8(git.wait_with_output().ok()?.stdout).ok()?;
    hash.get(..12).map(str::to_string)
}
