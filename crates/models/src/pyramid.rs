//! What image models of several scales share: stages with half the sides of the stage before.

use candle_core::Result;

/// The sizes of an image model in stages.
#[derive(Debug)]
pub(crate) struct Pyramid<'a> {
    /// The family in errors.
    pub(crate) model: &'static str,
    pub(crate) image_size: usize,
    pub(crate) patch_size: usize,
    pub(crate) channels: usize,
    pub(crate) classes: usize,
    /// Token width of each stage.
    pub(crate) widths: Vec<usize>,
    /// Blocks of each stage.
    pub(crate) depths: &'a [usize],
    /// Heads of each stage.
    pub(crate) heads: &'a [usize],
    pub(crate) window: usize,
    pub(crate) mlp_ratio: usize,
    pub(crate) drop_path: f64,
}

impl Pyramid<'_> {
    /// Tokens along one side of each stage.
    pub(crate) fn sides(&self) -> impl Iterator<Item = usize> + use<> {
        let side = self.image_size / self.patch_size.max(1);
        (0..self.depths.len()).map(move |stage| side >> stage)
    }

    /// Token width of the last stage.
    pub(crate) fn last_width(&self) -> usize {
        self.widths.last().copied().unwrap_or_default()
    }

    /// Checks that the sizes fit each other.
    ///
    /// # Errors
    /// Names the first contradiction.
    pub(crate) fn validate(&self) -> Result<()> {
        let Self { model, image_size, patch_size, .. } = *self;
        let stages = self.depths.len();
        let positive = [
            ("image_size", image_size),
            ("patch_size", patch_size),
            ("channels", self.channels),
            ("classes", self.classes),
            ("depths", stages),
            ("window", self.window),
            ("mlp_ratio", self.mlp_ratio),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            candle_core::bail!("{model}: {name} must be at least 1");
        }
        if self.heads.len() != stages || self.widths.len() != stages {
            candle_core::bail!(
                "{model}: {stages} depths, {} heads and {} widths; each stage needs one of each",
                self.heads.len(),
                self.widths.len()
            );
        }
        for (&width, &heads) in self.widths.iter().zip(self.heads) {
            if heads == 0 || width == 0 || !width.is_multiple_of(heads) {
                candle_core::bail!("{model}: {heads} heads do not divide width {width}");
            }
        }
        if stages > 16 || !image_size.is_multiple_of(patch_size << (stages - 1)) {
            candle_core::bail!(
                "{model}: images of {image_size} with patches of {patch_size} cannot be halved over {stages} \
                 stages"
            );
        }
        if !(0.0..1.0).contains(&self.drop_path) {
            candle_core::bail!(
                "{model}: drop_path {} is not a probability in [0, 1)",
                self.drop_path
            );
        }
        Ok(())
    }

    /// Checks that windows tile a stage.
    ///
    /// # Errors
    /// When they do not.
    pub(crate) fn check_window(&self, side: usize, window: usize) -> Result<()> {
        if !side.is_multiple_of(window) {
            candle_core::bail!(
                "{}: windows of {window} do not tile a stage of {side} x {side} tokens; choose image_size, \
                 patch_size and window so that they do",
                self.model
            );
        }
        Ok(())
    }
}

/// The drop-path rate of a block, which grows linearly over the blocks of all stages to `last`.
pub(crate) fn drop_path_of(last: f64, depths: &[usize], stage: usize, block: usize) -> f64 {
    let before: usize = depths[..stage].iter().sum();
    let end = depths.iter().sum::<usize>().saturating_sub(1).max(1);
    last * (before + block) as f64 / end as f64
}
