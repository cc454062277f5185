//! Processes that a launcher of MPI (`mpirun`, `srun`) has started, on one machine or several.

use std::fmt;

use candle_core::{DType, Device, Tensor, WithDType};
use mpi::collective::SystemOperation;
use mpi::datatype::Equivalence;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
#[cfg(feature = "nccl")]
use mpi::traits::Root;
use mpi::traits::{Communicator, CommunicatorCollectives};
use mpi::{Rank, Threading};

use crate::collective::Collective;
use crate::error::{Result, TrainError};

/// Numbers that one call of MPI takes: its counts have 31 bits.
const LONGEST: usize = 1 << 28;

/// The processes of an MPI job.
///
/// Sums are taken on the CPU, in f32 or f64; with the feature `nccl`, those of f32 tensors on GPUs are taken there.
pub struct Mpi {
    world: SimpleCommunicator,
    local_rank: usize,
    /// From the first sum of tensors on a GPU on.
    #[cfg(feature = "nccl")]
    gpus: std::cell::OnceCell<crate::nccl::Gpus>,
    /// Ends MPI when it is dropped.
    _universe: Universe,
}

impl Mpi {
    /// Joins the processes that were started with this one.
    ///
    /// All calls must come from the thread that made this one.
    ///
    /// # Errors
    /// When this process has joined before, or this MPI allows no threads beside the one that calls it.
    pub fn join() -> Result<Self> {
        let error = |reason: &str| TrainError::Collective { reason: reason.to_string() };
        let (universe, granted) = mpi::initialize_with_threading(Threading::Funneled)
            .ok_or_else(|| error("MPI was started before in this process"))?;
        if granted < Threading::Funneled {
            return Err(error(
                "this MPI was built for programs of one thread; take another build of it",
            ));
        }
        let world = universe.world();
        let local_rank = world.split_shared(world.rank()).rank();
        Ok(Self {
            local_rank: number(local_rank),
            world,
            #[cfg(feature = "nccl")]
            gpus: std::cell::OnceCell::new(),
            _universe: universe,
        })
    }

    /// The sums of these tensors, f32 on a GPU.
    #[cfg(feature = "nccl")]
    fn sum_on_gpus(&self, tensors: &[&Tensor]) -> Result<Vec<Tensor>> {
        let Some(Device::Cuda(device)) = tensors.first().map(|tensor| tensor.device()) else {
            return Ok(Vec::new());
        };
        if self.gpus.get().is_none() {
            let share = |id: &mut [u8; crate::nccl::ID]| {
                self.world.process_at_rank(0).broadcast_into(&mut id[..]);
            };
            let gpus = crate::nccl::Gpus::join(device, self.rank(), self.size(), share)?;
            // Set above by nobody else: this is the only thread.
            let _ = self.gpus.set(gpus);
        }
        self.gpus.get().map_or_else(|| Ok(Vec::new()), |gpus| gpus.sum(tensors))
    }

    /// The sums of these tensors, all of which have the same dtype.
    fn sum_as<T: WithDType + Equivalence>(&self, tensors: &[&Tensor]) -> Result<Vec<Tensor>> {
        let mut flat = Vec::new();
        for tensor in tensors {
            let tensor = tensor.to_device(&Device::Cpu)?.to_dtype(T::DTYPE)?;
            flat.extend(tensor.flatten_all()?.to_vec1::<T>()?);
        }
        let mut sums = flat.clone();
        for (own, sum) in flat.chunks(LONGEST).zip(sums.chunks_mut(LONGEST)) {
            self.world.all_reduce_into(own, sum, SystemOperation::sum());
        }
        let mut at = 0;
        let mut out = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            let end = at + tensor.elem_count();
            let sum = Tensor::from_slice(&sums[at..end], tensor.shape(), &Device::Cpu)?;
            out.push(sum.to_dtype(tensor.dtype())?.to_device(tensor.device())?);
            at = end;
        }
        Ok(out)
    }
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        number(self.world.rank())
    }

    fn local_rank(&self) -> usize {
        self.local_rank
    }

    fn size(&self) -> usize {
        number(self.world.size())
    }

    fn sum(&self, tensors: Vec<Tensor>) -> Result<Vec<Tensor>> {
        #[cfg(feature = "nccl")]
        if !tensors.is_empty() && tensors.iter().all(crate::nccl::serves) {
            return self.sum_on_gpus(&tensors.iter().collect::<Vec<_>>());
        }
        let is_wide = |tensor: &&Tensor| tensor.dtype() == DType::F64;
        let (wide, narrow): (Vec<&Tensor>, Vec<&Tensor>) = tensors.iter().partition(is_wide);
        let mut wide = self.sum_as::<f64>(&wide)?.into_iter();
        let mut narrow = self.sum_as::<f32>(&narrow)?.into_iter();
        let next = |tensor| if is_wide(&tensor) { wide.next() } else { narrow.next() };
        Ok(tensors.iter().filter_map(next).collect())
    }
}

impl fmt::Debug for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mpi({} of {})", self.rank(), self.size())
    }
}

/// Ranks and sizes are not negative.
fn number(rank: Rank) -> usize {
    usize::try_from(rank).unwrap_or(0)
}
