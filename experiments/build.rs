//! Records the commit and compiler that a binary was built from.

use std::process::Command;

fn main() {
    // Whatever can change the commit or the difference to it.
    for path in ["../.git/HEAD", "../.git/index", "../crates", "."] {
        println!("cargo::rerun-if-changed={path}");
    }
    let output = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_string())
    };
    let unknown = || "unknown".to_string();
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(unknown);
    let changed = output("git", &["status", "--porcelain"]).is_some_and(|s| !s.is_empty());
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_string());
    let rustc = output(&rustc, &["--version"]).unwrap_or_else(unknown);
    println!("cargo::rustc-env=BUILD_COMMIT={commit}{}", if changed { "+changes" } else { "" });
    println!("cargo::rustc-env=BUILD_RUSTC={rustc}");
}
