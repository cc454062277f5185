//! The Hugging Face hub, by the environment, with a bar for each file that is fetched.

use conditioned_data::hub::Hub;
use indicatif::{ProgressBar, ProgressStyle};

/// A hub whose downloads show on the terminal, if there is one.
///
/// # Errors
/// When the environment names no folder for the cache.
pub fn hub() -> anyhow::Result<Hub> {
    let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let bar = ProgressBar::hidden().with_style(ProgressStyle::with_template(template)?);
    let hub = Hub::from_env()?.on_progress(move |progress| {
        if bar.message() != progress.file {
            bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
            bar.set_message(progress.file.to_string());
            bar.set_length(progress.size);
            bar.reset();
        }
        bar.set_position(progress.done);
        if progress.done == progress.size {
            bar.finish_and_clear();
        }
    });
    Ok(hub)
}
