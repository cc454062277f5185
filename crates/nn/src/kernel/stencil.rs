//! Depthwise convolutions of channels-last images.

use std::ops::Range;

use super::Real;

/// Channels that are summed in registers.
const LANES: usize = 16;

/// The convolution of `images` (height, width, channels) with stride 1 and zeros around, image i
/// with the taps of group i mod `groups`; taps are (groups, rows, columns, channels), rows and
/// columns odd.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stencil {
    pub(crate) images: usize,
    pub(crate) groups: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) channels: usize,
    pub(crate) taps: (usize, usize),
}

/// A token of the result: its row and column.
type Place = (usize, usize);

impl Stencil {
    /// y_p = bias + sum over taps t of w_t x_(p + t), parallel over rows of images.
    pub(crate) fn forward<T: Real>(self, x: &[T], w: &[T], bias: Option<&[T]>) -> Vec<T> {
        super::build(x.len(), self.width * self.channels, |i, y| {
            let (image, row) = (i / self.height, i % self.height);
            let (x, w) = (self.image(x, image), self.group(w, image));
            super::vectorised(
                #[inline(always)]
                || {
                    for (column, y) in y.chunks_exact_mut(self.channels).enumerate() {
                        let (lanes, tail) = y.as_chunks_mut::<LANES>();
                        let first = lanes.len() * LANES;
                        for (c, y) in lanes.iter_mut().enumerate() {
                            *y = self.token(x, w, bias, (row, column), c * LANES);
                        }
                        for (c, y) in tail.iter_mut().enumerate() {
                            [*y] = self.token(x, w, bias, (row, column), first + c);
                        }
                    }
                },
            );
        })
    }

    /// L channels of one token of the result, from channel `c` on.
    #[inline(always)]
    fn token<T: Real, const L: usize>(
        self,
        x: &[T],
        w: &[T],
        bias: Option<&[T]>,
        (row, column): Place,
        c: usize,
    ) -> [T; L] {
        let mut sum = bias.map_or([T::ZERO; L], |bias| load(bias, c));
        for a in reach(row, self.height, self.taps.0) {
            let row = row + a - self.taps.0 / 2;
            for b in reach(column, self.width, self.taps.1) {
                let column = column + b - self.taps.1 / 2;
                let x: [T; L] = load(x, (row * self.width + column) * self.channels + c);
                let w: [T; L] = load(w, (a * self.taps.1 + b) * self.channels + c);
                for l in 0..L {
                    sum[l] += w[l] * x[l];
                }
            }
        }
        sum
    }

    /// dx: the convolution of `g` with the taps turned round.
    pub(crate) fn backward_input<T: Real>(self, g: &[T], w: &[T]) -> Vec<T> {
        let mut turned = Vec::with_capacity(w.len());
        for group in w.chunks_exact(self.taps_len().max(1)) {
            for tap in group.chunks_exact(self.channels).rev() {
                turned.extend_from_slice(tap);
            }
        }
        self.forward(g, &turned, None)
    }

    /// dw_t = sum over p of g_p x_(p + t): parallel over images, whose sums are added in order.
    pub(crate) fn backward_taps<T: Real>(self, x: &[T], g: &[T]) -> Vec<T> {
        let len = self.taps_len();
        let partial = super::build(self.images * len, len, |image, dw| {
            let (x, g) = (self.image(x, image), self.image(g, image));
            super::vectorised(
                #[inline(always)]
                || {
                    for row in 0..self.height {
                        for (t, dw) in dw.chunks_exact_mut(self.channels).enumerate() {
                            let (lanes, tail) = dw.as_chunks_mut::<LANES>();
                            let first = lanes.len() * LANES;
                            for (c, dw) in lanes.iter_mut().enumerate() {
                                self.add_tap(dw, x, g, (row, t), c * LANES);
                            }
                            for (c, dw) in tail.iter_mut().enumerate() {
                                let dw = std::array::from_mut(dw);
                                self.add_tap(dw, x, g, (row, t), first + c);
                            }
                        }
                    }
                },
            );
        });
        super::column_sums(&partial, self.groups * len)
    }

    /// Adds what one row of an image gives to L channels of tap number `t`, from channel `c` on.
    #[inline(always)]
    fn add_tap<T: Real, const L: usize>(
        self,
        dw: &mut [T; L],
        x: &[T],
        g: &[T],
        (row, t): (usize, usize),
        c: usize,
    ) {
        let (a, b) = (t / self.taps.1, t % self.taps.1);
        if !reach(row, self.height, self.taps.0).contains(&a) {
            return;
        }
        let (from, half) = (row + a - self.taps.0 / 2, self.taps.1 / 2);
        let mut sum = *dw;
        // The columns whose tap b lies in the image.
        for column in half.saturating_sub(b)..self.width.min((self.width + half).saturating_sub(b))
        {
            let g: [T; L] = load(g, (row * self.width + column) * self.channels + c);
            let x: [T; L] = load(x, (from * self.width + column + b - half) * self.channels + c);
            for l in 0..L {
                sum[l] += g[l] * x[l];
            }
        }
        *dw = sum;
    }

    /// Elements of the taps of one group.
    fn taps_len(self) -> usize {
        self.taps.0 * self.taps.1 * self.channels
    }

    fn image<T>(self, x: &[T], image: usize) -> &[T] {
        let len = self.height * self.width * self.channels;
        &x[image * len..(image + 1) * len]
    }

    fn group<T>(self, w: &[T], image: usize) -> &[T] {
        let (group, len) = (image % self.groups, self.taps_len());
        &w[group * len..(group + 1) * len]
    }
}

/// The taps, of `taps` in all, that reach from `at` into 0..size.
#[inline(always)]
fn reach(at: usize, size: usize, taps: usize) -> Range<usize> {
    let half = taps / 2;
    half.saturating_sub(at)..taps.min(size + half - at)
}

/// L elements from `start` on.
#[inline(always)]
fn load<T: Real, const L: usize>(x: &[T], start: usize) -> [T; L] {
    let mut lanes = [T::ZERO; L];
    lanes.copy_from_slice(&x[start..start + L]);
    lanes
}
