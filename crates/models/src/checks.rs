//! What the configurations of models check alike. Every error begins with the family.

use candle_core::Result;

/// Checks that each of these fields is at least one.
///
/// # Errors
/// Names the first that is zero.
pub(crate) fn at_least_one<const N: usize>(model: &str, fields: [(&str, usize); N]) -> Result<()> {
    match fields.iter().find(|(_, value)| *value == 0) {
        Some((name, _)) => candle_core::bail!("{model}: {name} must be at least 1"),
        None => Ok(()),
    }
}

/// Checks that a width is that of equal heads.
///
/// # Errors
/// When it is not.
pub(crate) fn equal_heads(model: &str, heads: usize, width: usize) -> Result<()> {
    if heads == 0 || !width.is_multiple_of(heads) {
        candle_core::bail!("{model}: {heads} heads do not divide width {width}");
    }
    Ok(())
}

/// Checks that patches tile an image.
///
/// # Errors
/// When they do not.
pub(crate) fn tiles(model: &str, patch_size: usize, image_size: usize) -> Result<()> {
    if !image_size.is_multiple_of(patch_size) {
        candle_core::bail!("{model}: patches of {patch_size} do not tile images of {image_size}");
    }
    Ok(())
}

/// Checks that a field is a probability below one.
///
/// # Errors
/// When it is not.
pub(crate) fn probability(model: &str, name: &str, value: f64) -> Result<()> {
    if !(0.0..1.0).contains(&value) {
        candle_core::bail!("{model}: {name} {value} is not a probability in [0, 1)");
    }
    Ok(())
}

/// Checks that this is an epsilon of layer norms.
///
/// # Errors
/// When it is not positive and finite.
pub(crate) fn epsilon(model: &str, eps: f64) -> Result<()> {
    if !(eps > 0.0 && eps.is_finite()) {
        candle_core::bail!("{model}: eps {eps} must be finite and > 0");
    }
    Ok(())
}

/// Checks that fields are standard deviations.
///
/// # Errors
/// Names the first that is negative or not finite.
pub(crate) fn deviations<const N: usize>(model: &str, fields: [(&str, f64); N]) -> Result<()> {
    match fields.iter().find(|(_, std)| !(*std >= 0.0 && std.is_finite())) {
        Some((name, std)) => candle_core::bail!("{model}: {name} {std} must be finite and >= 0"),
        None => Ok(()),
    }
}
