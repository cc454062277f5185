//! Depthwise convolutions of channels-last images.

use std::ops::Range;

use super::Real;

/// Channels that are summed in registers.
const LANES: usize = 16;

/// Elements of the rows whose gradients of taps are summed by one thread.
const BAND: usize = 1 << 15;

/// The convolution of `images` (height, width, channels) with stride 1 and zeros around; taps are (rows, columns,
/// channels), rows and columns odd.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stencil {
    pub(crate) images: usize,
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
        if self.is_small() {
            return self.forward_small(x, w, bias);
        }
        super::build(x.len(), self.width * self.channels, |i, y| {
            let (image, row) = (i / self.height, i % self.height);
            let x = self.image(x, image);
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
        for tap in w.chunks_exact(self.channels.max(1)).rev() {
            turned.extend_from_slice(tap);
        }
        self.forward(g, &turned, None)
    }

    /// dw_t = sum over p of g_p x_(p + t): parallel over images, whose sums are added in order.
    pub(crate) fn backward_taps<T: Real>(self, x: &[T], g: &[T]) -> Vec<T> {
        if self.is_small() {
            return self.backward_taps_small(x, g);
        }
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
        super::column_sums(&partial, len)
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

    /// Whether the taps of some channels fit in the registers of a core: 3 x 3.
    fn is_small(self) -> bool {
        self.taps == (3, 3)
    }

    /// [`Stencil::forward`] of 3 x 3 taps, which stay in registers along a row.
    fn forward_small<T: Real>(self, x: &[T], w: &[T], bias: Option<&[T]>) -> Vec<T> {
        let outside = vec![T::ZERO; self.width * self.channels];
        super::build(x.len(), self.width * self.channels, |i, y| {
            let rows = self.around(x, i, &outside);
            super::vectorised(
                #[inline(always)]
                || {
                    let lanes = self.channels - self.channels % LANES;
                    for c in (0..lanes).step_by(LANES) {
                        self.row_small::<T, LANES>(rows, w, bias, y, c);
                    }
                    for c in lanes..self.channels {
                        self.row_small::<T, 1>(rows, w, bias, y, c);
                    }
                },
            );
        })
    }

    /// L channels of one row of the result, from channel `c` on, of the three rows around it.
    #[inline(always)]
    fn row_small<T: Real, const L: usize>(
        self,
        rows: [&[T]; 3],
        w: &[T],
        bias: Option<&[T]>,
        y: &mut [T],
        c: usize,
    ) {
        let w: [[T; L]; 9] = std::array::from_fn(|t| load(w, t * self.channels + c));
        let bias = bias.map_or([T::ZERO; L], |bias| load(bias, c));
        for column in 0..self.width {
            let mut sum = bias;
            for a in 0..3 {
                for b in 0..3 {
                    // A branch and not a range: an index that is not constant would put the taps
                    // into memory.
                    if column + b >= 1 && column + b <= self.width {
                        let x: [T; L] = load(rows[a], (column + b - 1) * self.channels + c);
                        for l in 0..L {
                            sum[l] += w[3 * a + b][l] * x[l];
                        }
                    }
                }
            }
            y[column * self.channels + c..][..L].copy_from_slice(&sum);
        }
    }

    /// [`Stencil::backward_taps`] of 3 x 3 taps: sums in registers along a row, parallel over bands
    /// of rows.
    fn backward_taps_small<T: Real>(self, x: &[T], g: &[T]) -> Vec<T> {
        let (len, row) = (self.taps_len(), self.width * self.channels);
        let (outside, band) = (vec![T::ZERO; row], (BAND / row.max(1)).max(1));
        let rows = self.images * self.height;
        let partial = super::build(rows.div_ceil(band) * len, len, |i, dw| {
            super::vectorised(
                #[inline(always)]
                || {
                    let lanes = self.channels - self.channels % LANES;
                    for r in i * band..((i + 1) * band).min(rows) {
                        let (x, g) = (self.around(x, r, &outside), &g[r * row..(r + 1) * row]);
                        for c in (0..lanes).step_by(LANES) {
                            self.add_taps_small::<T, LANES>(x, g, dw, c);
                        }
                        for c in lanes..self.channels {
                            self.add_taps_small::<T, 1>(x, g, dw, c);
                        }
                    }
                },
            );
        });
        super::column_sums(&partial, len)
    }

    /// Adds what one row of `g` and the three rows of x around it give to L channels of all taps.
    #[inline(always)]
    fn add_taps_small<T: Real, const L: usize>(
        self,
        rows: [&[T]; 3],
        g: &[T],
        dw: &mut [T],
        c: usize,
    ) {
        let mut sums: [[T; L]; 9] = std::array::from_fn(|t| load(dw, t * self.channels + c));
        for column in 0..self.width {
            let g: [T; L] = load(g, column * self.channels + c);
            for a in 0..3 {
                for b in 0..3 {
                    if column + b >= 1 && column + b <= self.width {
                        let x: [T; L] = load(rows[a], (column + b - 1) * self.channels + c);
                        for l in 0..L {
                            sums[3 * a + b][l] += g[l] * x[l];
                        }
                    }
                }
            }
        }
        for (t, sums) in sums.iter().enumerate() {
            dw[t * self.channels + c..][..L].copy_from_slice(sums);
        }
    }

    /// Row number `row` of all images and those above and below it, which are `outside` beyond the
    /// image.
    fn around<'a, T>(self, x: &'a [T], row: usize, outside: &'a [T]) -> [&'a [T]; 3] {
        let (at, len) = (row % self.height, self.width * self.channels);
        let of = |row: usize| &x[row * len..(row + 1) * len];
        [
            if at > 0 { of(row - 1) } else { outside },
            of(row),
            if at + 1 < self.height { of(row + 1) } else { outside },
        ]
    }

    /// Elements of the taps.
    fn taps_len(self) -> usize {
        self.taps.0 * self.taps.1 * self.channels
    }

    fn image<T>(self, x: &[T], image: usize) -> &[T] {
        let len = self.height * self.width * self.channels;
        &x[image * len..(image + 1) * len]
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
