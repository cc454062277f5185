//! What image models of several scales share: stages with half the sides of the stage before.

use candle_core::Result;

use crate::checks;

/// The stages of an image model.
#[derive(Debug)]
pub(crate) struct Pyramid<'a> {
    /// The family in errors.
    pub(crate) model: &'static str,
    /// Side of the image in pixels.
    pub(crate) image_size: usize,
    /// Pixels between two tokens of the first stage.
    pub(crate) patch_size: usize,
    /// Token width of each stage.
    pub(crate) widths: Vec<usize>,
    /// Blocks of each stage.
    pub(crate) depths: &'a [usize],
    /// Heads of each stage.
    pub(crate) heads: &'a [usize],
}

impl Pyramid<'_> {
    /// Tokens along one side of each stage.
    pub(crate) fn sides(&self) -> impl Iterator<Item = usize> + use<> {
        let side = self.image_size / self.patch_size;
        (0..self.depths.len()).map(move |stage| side >> stage)
    }

    /// Token width of the last stage.
    pub(crate) fn last_width(&self) -> usize {
        self.widths.last().copied().unwrap_or_default()
    }

    /// Blocks before those of a stage, and in all.
    pub(crate) fn blocks(&self, stage: usize) -> (usize, usize) {
        (self.depths[..stage].iter().sum(), self.depths.iter().sum())
    }

    /// Checks that every stage has its sizes, and tokens that windows of `window(side)` tile.
    ///
    /// # Errors
    /// Names the first contradiction.
    pub(crate) fn validate(&self, window: impl Fn(usize) -> usize) -> Result<()> {
        let Self { model, image_size, patch_size, .. } = *self;
        let stages = self.depths.len();
        checks::at_least_one(
            model,
            [("image_size", image_size), ("patch_size", patch_size), ("depths", stages)],
        )?;
        if self.heads.len() != stages || self.widths.len() != stages {
            candle_core::bail!(
                "{model}: {stages} depths, {} heads and {} widths; each stage needs one of each",
                self.heads.len(),
                self.widths.len()
            );
        }
        for (&width, &heads) in self.widths.iter().zip(self.heads) {
            checks::at_least_one(model, [("width", width)])?;
            checks::equal_heads(model, heads, width)?;
        }
        let halved = u32::try_from(stages - 1).ok().and_then(|by| patch_size.checked_shl(by));
        if halved.is_none_or(|pixels| pixels == 0 || !image_size.is_multiple_of(pixels)) {
            candle_core::bail!(
                "{model}: images of {image_size} with patches of {patch_size} cannot be halved over {stages} \
                 stages"
            );
        }
        for side in self.sides() {
            let window = window(side);
            if window == 0 || !side.is_multiple_of(window) {
                candle_core::bail!(
                    "{model}: windows of {window} do not tile a stage of {side} x {side} tokens; choose \
                     image_size, patch_size and window so that they do"
                );
            }
        }
        Ok(())
    }
}
