//! What a forward pass knows beside its tokens.

use crate::{Mode, Padding, Probe};

/// A forward pass: its mode, the padding of its batch, and who looks on.
///
/// A [`Mode`] alone is a pass without padding: `sequence.forward(&x, Mode::Eval)`.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// Training or evaluation.
    pub mode: Mode,
    /// Where the sequences of the batch end; `None` where all are of one length. Attention sees real
    /// tokens only, and padding gets none from it.
    pub padding: Option<&'a Padding>,
    /// What collects tokens, queries, keys and attention of every layer on the way.
    pub probe: Option<&'a Probe>,
}

impl<'a> Pass<'a> {
    /// The same pass over sequences of different lengths.
    pub fn padded(self, padding: Option<&'a Padding>) -> Self {
        Self { padding, ..self }
    }

    /// An evaluation that `probe` looks on to.
    pub fn probed(probe: &'a Probe) -> Self {
        Self { probe: Some(probe), ..Mode::Eval.into() }
    }
}

impl From<Mode> for Pass<'_> {
    fn from(mode: Mode) -> Self {
        Self { mode, padding: None, probe: None }
    }
}
