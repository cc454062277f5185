//! Training for [candle](candle_core): a loop on one screen, and runs that resume to the same bits.
//!
//! A [`Task`] gives batches, a loss and an evaluation; [`fit()`] does the rest: rate, gradient,
//! checks, clipping, AdamW or Muon, moving average, record and checkpoint. Here a line is fitted:
//!
//! ```
//! use std::sync::atomic::AtomicBool;
//!
//! use candle_core::{DType, Device, Tensor};
//! use candle_nn::VarBuilder;
//! use conditioned_nn::{Mode, Precision, Store};
//! use conditioned_train::{
//!     AdamWConfig, Alone, Batches, Control, FitConfig, GroupRule, Length, Metrics, Run, Schedule, Shape,
//!     Task, TaskError, fit,
//! };
//!
//! struct Line {
//!     slope: Tensor,
//! }
//!
//! impl Task for Line {
//!     type Batch = (f64, f64);
//!
//!     fn batches_per_epoch(&self) -> usize {
//!         8
//!     }
//!
//!     fn batches(
//!         &self,
//!         _: usize,
//!         first: usize,
//!         every: usize,
//!     ) -> Result<Batches<'_, (f64, f64)>, TaskError> {
//!         let point = |i| Ok((1.0 + i as f64, 3.0 + 3.0 * i as f64));
//!         Ok(Box::new((first..8).step_by(every).map(point)))
//!     }
//!
//!     fn loss(&self, &(x, y): &(f64, f64), _: Mode) -> Result<Tensor, TaskError> {
//!         Ok(((&self.slope * x)? - y)?.sqr()?)
//!     }
//!
//!     fn evaluate(&self, weights: VarBuilder<'static>, _last: bool) -> Result<Metrics, TaskError> {
//!         let slope = weights.get((), "slope")?.to_scalar::<f64>()?;
//!         Ok(Metrics::from([("slope".to_string(), slope)]))
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Store::new(7, DType::F64, &Device::Cpu);
//! let task = Line { slope: store.builder().get((), "slope")? };
//! let config = FitConfig {
//!     length: Length::Epochs(40),
//!     accumulate: 1,
//!     ramp: 0.0,
//!     schedule: Schedule { peak: 0.1, shape: Shape::Cosine { warmup: 0.1, floor: 0.0 } },
//!     adamw: AdamWConfig::default(),
//!     muon: None,
//!     groups: GroupRule::new(0.05, ["*pos_embed"]),
//!     clip: Some(1.0),
//!     ema: None,
//!     evaluate_every: 20,
//!     checkpoint_every: 20,
//!     probe_every: None,
//!     precision: Precision::Full,
//!     seed: 7,
//! };
//! let folder = tempfile::tempdir()?;
//! let run = Run { folder: folder.path().to_path_buf(), identity: "line".to_string() };
//! let stop = AtomicBool::new(false);
//! let mut control = Control { stop: &stop, progress: &mut |_| {}, collective: &Alone };
//! let outcome = fit(&task, &store, &config, &run, &mut control)?;
//! assert!((outcome.metrics["slope"] - 3.0).abs() < 0.01);
//! # Ok(())
//! # }
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | [`fit`](mod@fit) | the loop |
//! | [`task`] | what it trains |
//! | [`config`] | its settings |
//! | [`plan`] | the steps that follow from them |
//! | [`run`] | where a run lives, how it is watched, what comes out |
//! | [`adamw`], [`groups`], [`schedule`], [`clip`], [`accumulate`](mod@accumulate) | one optimiser step |
//! | [`muon`], [`optimizer`] | the optimiser that orthogonalises its updates, and which matrices it moves |
//! | [`collective`] | several processes that train one model |
//! | [`coverage`] | every parameter has a gradient |
//! | [`ema`] | the moving average of the parameters |
//! | [`record`] | `metrics.jsonl` |
//! | [`checkpoint`], [`snapshot`] | files that a run resumes from, and their content |
//! | [`error`] | what can stop a run |

pub mod accumulate;
pub mod adamw;
pub mod checkpoint;
pub mod clip;
pub mod collective;
pub mod config;
pub mod coverage;
pub mod ema;
pub mod error;
mod finite;
pub mod fit;
pub mod groups;
#[cfg(feature = "mpi")]
pub mod mpi;
pub mod muon;
#[cfg(feature = "nccl")]
mod nccl;
pub mod optimizer;
pub mod plan;
pub mod record;
pub mod run;
pub mod schedule;
pub mod snapshot;
mod state;
mod stream;
pub mod task;
mod update;

pub use accumulate::accumulate;
pub use adamw::{AdamW, AdamWConfig};
pub use checkpoint::Checkpoints;
pub use clip::GradientNorms;
pub use collective::{Alone, Collective};
pub use config::{FitConfig, Length};
pub use ema::Ema;
pub use error::{Result, TrainError};
pub use fit::fit;
pub use groups::{Group, GroupRule};
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub use muon::{Muon, MuonConfig, Packed, UpdateScale};
pub use optimizer::{MuonRule, Optimizer};
pub use plan::{MOST_MICRO_BATCHES, Plan};
pub use record::{Event, Recorder};
pub use run::{Control, Outcome, Progress, Run, Status};
pub use schedule::{Schedule, Shape};
pub use snapshot::Snapshot;
pub use task::{Batches, Findings, Metrics, Task, TaskError};
