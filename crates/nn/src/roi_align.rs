//! Boxes of feature maps, resampled to squares of one size: RoIAlign.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};

use crate::kernel::{self, Real};
use crate::reference;

/// A region of interest: a box of one image of a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Roi {
    /// The image, by position in the batch.
    pub image: usize,
    /// x1, y1, x2, y2 in pixels of the image.
    pub corners: [f64; 4],
}

/// Means of bilinear samples in the cells of a `size` x `size` grid over every box:
/// `features` (B, H, W, C), channels last, and R boxes give (R, size, size, C).
///
/// y_rpqc = 1/(n m) sum over i < n, j < m of f_c(v_pi, u_qj), where the samples of a cell lie in its middle and evenly,
/// v_pi = s y1 - 1/2 + (p + (i + 1/2)/n) h with the cell's height h = s (y2 - y1) / size, and u_qj alike.
///
/// s is `spatial_scale`, pixels of the features for one of the image. n = m = `sampling_ratio`, or where that is 0,
/// n = h and m = w rounded up. f interpolates between the centres of pixels, which lie at integers; up to one pixel
/// outside it is that of the border, beyond that 0. A box of negative size is sampled backwards, and is 0 where
/// `sampling_ratio` is 0.
///
/// Boxes get no gradient. Bits do not depend on the number of threads.
///
/// # Errors
/// When `rois` is empty, a box is of no image of the batch or not finite, `size` is 0, or the features are not floats
/// of the shape (B, H, W, C) with pixels.
///
/// # Source
/// He et al., "Mask R-CNN", 2017; `torchvision.ops.roi_align` with `aligned=True`.
pub fn roi_align(
    features: &Tensor,
    rois: &[Roi],
    size: usize,
    spatial_scale: f64,
    sampling_ratio: usize,
) -> Result<Tensor> {
    if !kernel::serves(features) {
        return reference::roi_align(features, rois, size, spatial_scale, sampling_ratio);
    }
    let grids = grids(features, rois, size, spatial_scale, sampling_ratio)?;
    let (_, height, width, _) = features.dims4()?;
    let weights = |grid: &Grid| Weights {
        image: grid.image,
        rows: grid.rows.taps(height),
        columns: grid.columns.taps(width),
    };
    let op = RoiAlignOp { rois: grids.iter().map(weights).collect(), size };
    features.contiguous()?.apply_op1(op)
}

/// Pixels of the features that a box may lie away from them: well inside what an f64 and an index tell apart.
const FARTHEST: f64 = 1e9;

/// A box in pixels of the features.
pub(crate) struct Grid {
    pub(crate) image: usize,
    pub(crate) rows: Axis,
    pub(crate) columns: Axis,
}

/// One side of a box, `cells` intervals of `samples` places each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Axis {
    start: f64,
    cell: f64,
    cells: usize,
    samples: f64,
}

/// The boxes in pixels of the features.
///
/// # Errors
/// See [`roi_align`].
pub(crate) fn grids(
    features: &Tensor,
    rois: &[Roi],
    size: usize,
    scale: f64,
    ratio: usize,
) -> Result<Vec<Grid>> {
    let &[images, height, width, _] = features.dims() else {
        candle_core::bail!("roi-align: features {:?} are not (B, H, W, C)", features.dims());
    };
    if height == 0 || width == 0 || !features.dtype().is_float() {
        candle_core::bail!(
            "roi-align: features {:?} of {:?} are no floats or have no pixels",
            features.dims(),
            features.dtype()
        );
    }
    if rois.is_empty() {
        candle_core::bail!("roi-align: there are no RoIs; pool nothing where there are none");
    }
    if size == 0 {
        candle_core::bail!("roi-align: the size is 0, but a RoI becomes size x size cells");
    }
    let grid = |(i, roi): (usize, &Roi)| {
        let Roi { image, corners } = *roi;
        if image >= images {
            candle_core::bail!("roi-align: RoI {i} is of image {image} in a batch of {images}");
        }
        let [x1, y1, x2, y2] = corners.map(|corner| corner * scale - 0.5);
        if ![x1, y1, x2, y2].iter().all(|corner| corner.abs() <= FARTHEST) {
            candle_core::bail!(
                "roi-align: the corners {corners:?} of RoI {i} at the scale {scale} are not finite \
                 or beyond {FARTHEST:e} pixels; clip boxes to their image"
            );
        }
        let axis = |start: f64, end: f64| {
            let cell = (end - start) / size as f64;
            let samples = if ratio > 0 { ratio as f64 } else { cell.ceil() };
            Axis { start, cell, cells: size, samples }
        };
        Ok(Grid { image, rows: axis(y1, y2), columns: axis(x1, x2) })
    };
    rois.iter().enumerate().map(grid).collect()
}

impl Axis {
    /// The samples of a cell for a mean over them.
    pub(crate) fn count(self) -> f64 {
        self.samples.max(1.0)
    }

    /// The places of the samples of `cell` between -1 and `extent`; the others are 0.
    pub(crate) fn inside(self, cell: usize, extent: usize) -> impl Iterator<Item = f64> {
        let (origin, end) = (self.start + cell as f64 * self.cell, extent as f64);
        let step = self.cell / self.samples;
        // Of a huge box only the samples about the image are looked at.
        let (first, last) = if step == 0.0 {
            (0.0, self.samples)
        } else {
            let (a, b) = ((-1.0 - origin) / step, (end - origin) / step);
            ((a.min(b) - 2.0).max(0.0), (a.max(b) + 2.0).min(self.samples))
        };
        let place = move |i: u64| origin + (i as f64 + 0.5) * self.cell / self.samples;
        // A cast takes what is below 0 to 0.
        let places = (first as u64..last.ceil() as u64).map(place);
        places.filter(move |place| (-1.0..=end).contains(place))
    }

    /// The pixels of every cell by their weights in its mean, in order of cells and pixels.
    fn taps(self, extent: usize) -> Vec<Tap> {
        let mut taps = Vec::new();
        for cell in 0..self.cells {
            for place in self.inside(cell, extent) {
                let between = neighbours(place, extent);
                taps.extend(between.map(|(pixel, weight)| Tap { cell, pixel, weight }));
            }
        }
        taps.retain(|tap| tap.weight != 0.0);
        taps.sort_by_key(|tap| (tap.cell, tap.pixel));
        taps.dedup_by(|tap, sum| {
            let same = (tap.cell, tap.pixel) == (sum.cell, sum.pixel);
            sum.weight += if same { tap.weight } else { 0.0 };
            same
        });
        taps.iter_mut().for_each(|tap| tap.weight /= self.count());
        taps
    }
}

/// The pixels about a place between -1 and `extent`, and their weights.
pub(crate) fn neighbours(place: f64, extent: usize) -> [(usize, f64); 2] {
    let place = place.max(0.0);
    let (low, last) = (place as usize, extent - 1);
    if low >= last {
        return [(last, 1.0), (last, 0.0)];
    }
    let part = place - low as f64;
    [(low, 1.0 - part), (low + 1, part)]
}

/// The weight of a pixel in the mean of a cell, along one side.
#[derive(Debug, Clone, Copy)]
struct Tap {
    cell: usize,
    pixel: usize,
    weight: f64,
}

/// A mean of bilinear samples on a grid is a mean along columns of means along rows: y = R x C^T.
struct Weights {
    image: usize,
    rows: Vec<Tap>,
    columns: Vec<Tap>,
}

struct RoiAlignOp {
    rois: Vec<Weights>,
    size: usize,
}

/// Channels that are summed at once, in registers.
const CHANNELS: usize = 32;

/// y += sum over (from, w) of w x[from..].
#[inline(always)]
fn add_weighted<T: Real>(x: &[T], taps: &[(usize, T)], y: &mut [T]) {
    let (blocks, tail) = y.as_chunks_mut::<CHANNELS>();
    let first = blocks.len() * CHANNELS;
    for (i, block) in blocks.iter_mut().enumerate() {
        let mut sum = *block;
        for &(from, weight) in taps {
            let x = &x[from + i * CHANNELS..][..CHANNELS];
            for l in 0..CHANNELS {
                sum[l] += weight * x[l];
            }
        }
        *block = sum;
    }
    for &(from, weight) in taps {
        for (y, &x) in tail.iter_mut().zip(&x[from + first..]) {
            *y += weight * x;
        }
    }
}

impl RoiAlignOp {
    /// A piece of work is a RoI.
    fn pool<T: Real>(&self, x: &[T], [height, width, c]: [usize; 3]) -> Vec<T> {
        let len = self.size * self.size * c;
        kernel::build(self.rois.len() * len, len, |roi, y: &mut [T]| {
            let Weights { image, rows, columns } = &self.rois[roi];
            let x = &x[image * height * width * c..][..height * width * c];
            let mut taps = Vec::new();
            kernel::vectorised(
                #[inline(always)]
                || {
                    for rows in rows.chunk_by(|a, b| a.cell == b.cell) {
                        for columns in columns.chunk_by(|a, b| a.cell == b.cell) {
                            taps.clear();
                            for row in rows {
                                let from = row.pixel * width;
                                taps.extend(columns.iter().map(|column| {
                                    let weight = T::from_f64(row.weight * column.weight);
                                    ((from + column.pixel) * c, weight)
                                }));
                            }
                            let cell = rows[0].cell * self.size + columns[0].cell;
                            add_weighted(x, &taps, &mut y[cell * c..][..c]);
                        }
                    }
                },
            );
        })
    }

    /// dx = R^T g C. A piece of work is some rows of the maps, each of which adds what RoIs have for it in their order.
    fn spread<T: Real>(&self, g: &[T], [images, height, width, c]: [usize; 4]) -> Vec<T> {
        let by_pixel = |taps: &[Tap]| {
            let mut taps = taps.to_vec();
            taps.sort_by_key(|tap| (tap.pixel, tap.cell));
            taps
        };
        let mut of_images: Vec<Vec<ByPixel>> = Vec::new();
        of_images.resize_with(images, Vec::new);
        for (i, roi) in self.rois.iter().enumerate() {
            let (rows, columns) = (by_pixel(&roi.rows), by_pixel(&roi.columns));
            of_images[roi.image].push(ByPixel { roi: i, rows, columns });
        }
        let line = self.size * c;
        let rows_per_piece = kernel::rows_per_piece(width * c);
        let piece_len = rows_per_piece * width * c;
        kernel::build(images * height * width * c, piece_len, |piece, dx: &mut [T]| {
            let mut sums = vec![T::ZERO; line];
            let mut taps = Vec::new();
            let places = piece * rows_per_piece..;
            for (place, dx) in places.zip(dx.chunks_exact_mut((width * c).max(1))) {
                let (image, y) = (place / height, place % height);
                for ByPixel { roi, rows, columns } in &of_images[image] {
                    let from = rows.partition_point(|tap| tap.pixel < y);
                    let here = rows[from..].iter().take_while(|tap| tap.pixel == y);
                    taps.clear();
                    taps.extend(
                        here.map(|tap| {
                            ((roi * self.size + tap.cell) * line, T::from_f64(tap.weight))
                        }),
                    );
                    if taps.is_empty() {
                        continue;
                    }
                    kernel::vectorised(
                        #[inline(always)]
                        || {
                            sums.fill(T::ZERO);
                            add_weighted(g, &taps, &mut sums);
                            for columns in columns.chunk_by(|a, b| a.pixel == b.pixel) {
                                taps.clear();
                                let weights = columns.iter();
                                taps.extend(weights.map(|t| (t.cell * c, T::from_f64(t.weight))));
                                add_weighted(&sums, &taps, &mut dx[columns[0].pixel * c..][..c]);
                            }
                        },
                    );
                }
            }
        })
    }

    /// The gradient of `features` from that of the result.
    fn gradient<T: Real>(&self, features: &Tensor, g: &Tensor) -> Result<Tensor> {
        let (images, height, width, c) = features.dims4()?;
        let reads = kernel::Reads::of([g]);
        let g: &[T] = reads.slices(self.name())?[0];
        let gradient = self.spread(g, [images, height, width, c]);
        Tensor::from_vec(gradient, features.shape(), features.device())
    }
}

/// A RoI, and its taps in the order of their pixels.
struct ByPixel {
    roi: usize,
    rows: Vec<Tap>,
    columns: Vec<Tap>,
}

impl CustomOp1 for RoiAlignOp {
    fn name(&self) -> &'static str {
        "roi-align"
    }

    fn cpu_fwd(&self, features: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, height, width, c) = layout.shape().dims4()?;
        kernel::dispatch!(features, self.name(), T => {
            let x = kernel::slice::<T>(features, layout, self.name())?;
            let y = self.pool(x, [height, width, c]);
            kernel::output(y, (self.rois.len(), self.size, self.size, c))
        })
    }

    fn bwd(&self, features: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let g = g.contiguous()?;
        let gradient = match features.dtype() {
            DType::F32 => self.gradient::<f32>(features, &g)?,
            _ => self.gradient::<f64>(features, &g)?,
        };
        Ok(Some(gradient))
    }
}
