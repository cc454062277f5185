//! Names of models.

/// A name that is not a preset.
#[derive(Debug, thiserror::Error)]
#[error("unknown model `{name}`; known: {}", known.join(", "))]
pub struct UnknownPreset {
    /// The name asked for.
    pub name: String,
    /// The names that exist.
    pub known: Vec<&'static str>,
}
