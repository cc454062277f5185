//! One launch of a kernel.

use std::cell::Cell;

use candle_core::{
    CpuStorage, CudaStorage, DType, Device, InplaceOp2, InplaceOp3, Layout, Result, Shape, Tensor,
    WithDType,
};

use super::op::NAME;

/// The kernels, in CUDA C++: what all need, and the files that are compiled with it, each for itself.
#[doc(hidden)]
pub const SOURCES: [&str; 3] =
    [include_str!("common.cu"), include_str!("kernels.cu"), include_str!("attention.cu")];

/// One launch of a kernel of [`SOURCES`].
///
/// Its arguments are pointers to the inputs and to the result, rows and width as i32, and four f32.
#[doc(hidden)]
#[derive(Debug, Clone)]
pub struct Launch {
    /// The kernel.
    pub(crate) kernel: String,
    /// The first size.
    pub(crate) rows: usize,
    /// The second size.
    pub(crate) width: usize,
    /// The numbers, whose meaning is the kernel's.
    pub(crate) numbers: [f32; 4],
    /// Blocks of threads.
    pub(crate) blocks: usize,
    /// Threads in a block, a multiple of 32.
    pub(crate) threads: usize,
    /// The shape of the result.
    pub(crate) shape: Shape,
    /// Elements behind the result, which a kernel leaves there for its gradient.
    pub(crate) behind: usize,
    /// The dtype of the result, f32 or bf16.
    pub(crate) dtype: DType,
}

/// Threads in a block, unless the kernel says how many.
const THREADS: usize = 256;

/// Threads of a warp, which shares a row.
const WARP: usize = 32;

/// Blocks at most for elements one by one: every thread goes on to further ones.
const BLOCKS: usize = 4096;

impl Launch {
    /// Rows of a block, where a warp works on one.
    pub(crate) const ROWS: usize = THREADS / WARP;

    /// The name of the kernel.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// Its two sizes, rows and width.
    pub fn sizes(&self) -> [usize; 2] {
        [self.rows, self.width]
    }

    /// Its four numbers, whose meaning is the kernel's.
    pub fn numbers(&self) -> [f32; 4] {
        self.numbers
    }

    /// Blocks, and threads in a block: a multiple of 32.
    pub fn geometry(&self) -> [usize; 2] {
        [self.blocks, self.threads]
    }

    /// Of a kernel in which a warp works on a row; the result is like `x` (.., width).
    pub(crate) fn of_rows(kernel: String, x: &Tensor) -> Self {
        let width = x.dims().last().copied().unwrap_or(1).max(1);
        let rows = x.elem_count() / width;
        let (blocks, shape) = (rows.div_ceil(Self::ROWS), x.shape().clone());
        Self {
            kernel,
            rows,
            width,
            numbers: [0.0; 4],
            blocks,
            threads: THREADS,
            shape,
            behind: 0,
            dtype: x.dtype(),
        }
    }

    /// Of a kernel that goes over the elements of `x`; the result is like `x`.
    pub(crate) fn of_elements(kernel: String, x: &Tensor) -> Self {
        let rows = x.elem_count();
        let (blocks, shape) = (rows.div_ceil(THREADS).min(BLOCKS), x.shape().clone());
        Self {
            kernel,
            rows,
            width: 1,
            numbers: [0.0; 4],
            blocks,
            threads: THREADS,
            shape,
            behind: 0,
            dtype: x.dtype(),
        }
    }
}

/// What stands in for a GPU in tests: runs a launch on the elements of the inputs, which are on the CPU, and fills `out`.
#[doc(hidden)]
pub type Host =
    fn(launch: &Launch, inputs: &[(&CpuStorage, usize)], out: &mut CpuStorage) -> Result<()>;

thread_local! {
    static HOST: Cell<Option<Host>> = const { Cell::new(None) };
}

/// Runs `work` with `host` in place of a GPU: what would launch a kernel on CUDA launches it there for tensors on the CPU
/// too. For tests of kernels on machines without a GPU.
#[doc(hidden)]
pub fn emulate<R>(host: Host, work: impl FnOnce() -> R) -> R {
    /// What there was before, also after a panic.
    struct Before(Option<Host>);
    impl Drop for Before {
        fn drop(&mut self) {
            HOST.set(self.0);
        }
    }
    let _before = Before(HOST.replace(Some(host)));
    work()
}

/// Whether kernels can run on `x`: on a CUDA device, in f32 or bf16, and of sizes that they can count.
pub(crate) fn serves(x: &Tensor) -> bool {
    let device = match x.device().is_cpu() {
        true => HOST.get().is_some(),
        false => cfg!(feature = "cuda") && x.device().is_cuda(),
    };
    let counted = (1..=i32::MAX as usize).contains(&x.elem_count());
    device && counted && matches!(x.dtype(), DType::F32 | DType::BF16)
}

/// Whether the device of `x` multiplies bf16 on tensor cores: from compute 8.0 on.
pub(crate) fn has_tensor_cores(x: &Tensor) -> bool {
    match x.device() {
        Device::Cpu => HOST.get().is_some(),
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => device::is_ampere(cuda),
        _ => false,
    }
}

impl Launch {
    fn start(&self, layout: &Layout) -> Result<usize> {
        match layout.contiguous_offsets() {
            Some((start, _)) => Ok(start),
            None => candle_core::bail!("{}: an input is not contiguous", self.kernel),
        }
    }

    pub(super) fn on_host(&self, inputs: &[(&CpuStorage, &Layout)]) -> Result<(CpuStorage, Shape)> {
        let len = self.shape.elem_count() + self.behind;
        let mut out = match self.dtype {
            DType::F32 => CpuStorage::F32(vec![f32::NAN; len]),
            DType::BF16 => CpuStorage::BF16(vec![WithDType::from_f64(f64::NAN); len]),
            dtype => candle_core::bail!("{}: no result in {dtype:?}", self.kernel),
        };
        self.fill_on_host(inputs, &mut out)?;
        Ok((out, self.shape.clone()))
    }

    fn fill_on_host(&self, inputs: &[(&CpuStorage, &Layout)], out: &mut CpuStorage) -> Result<()> {
        let Some(host) = HOST.get() else {
            candle_core::bail!("{}: a kernel of CUDA was given tensors on the CPU", self.kernel);
        };
        let of = |&(storage, layout): &(_, _)| Ok((storage, self.start(layout)?));
        let inputs = inputs.iter().map(of).collect::<Result<Vec<_>>>()?;
        host(self, &inputs, out)
    }

    #[cfg(not(feature = "cuda"))]
    pub(super) fn on_cuda(&self, _: &[(&CudaStorage, &Layout)]) -> Result<(CudaStorage, Shape)> {
        candle_core::bail!("{}: built without feature `cuda`", self.kernel)
    }

    #[cfg(not(feature = "cuda"))]
    fn fill_on_cuda(
        &self,
        _: &[(&CudaStorage, &Layout)],
        _: (&mut CudaStorage, &Layout),
    ) -> Result<()> {
        candle_core::bail!("{}: built without feature `cuda`", self.kernel)
    }
}

#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
mod device {
    use std::sync::OnceLock;

    use candle_core::backend::BackendStorage;
    use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute;
    use candle_core::cuda_backend::cudarc::driver::{
        CudaView, CudaViewMut, LaunchConfig, PushKernelArg,
    };
    use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
    use candle_core::cuda_backend::{CudaDevice, WrapErr};

    use super::{CudaStorage, DType, Launch, Layout, Result, SOURCES, Shape};

    /// What a kernel writes.
    enum Out<'a> {
        F32(CudaViewMut<'a, f32>),
        Bf16(CudaViewMut<'a, half::bf16>),
    }

    /// What a kernel reads.
    enum View<'a> {
        F32(CudaView<'a, f32>),
        Bf16(CudaView<'a, half::bf16>),
        U32(CudaView<'a, u32>),
    }

    /// Whether a device is of compute 8.0 or later.
    pub(super) fn is_ampere(device: &CudaDevice) -> bool {
        let major = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR;
        // A device that does not say takes the way that needs nothing.
        device.cuda_stream().context().attribute(major).is_ok_and(|major| major >= 8)
    }

    /// The name under which candle keeps the compiled file of a kernel on a device, and its PTX.
    fn module(kernel: &str) -> Result<(&'static str, &'static str)> {
        static PTX: [OnceLock<std::result::Result<String, String>>; 2] =
            [const { OnceLock::new() }; 2];
        let [common, kernels, attention] = SOURCES;
        let (at, name, source, arch) = match kernel.starts_with("attention") {
            false => (0, "conditioned-nn", kernels, None),
            // The first with tensor cores for bf16; its PTX runs on all that came later.
            true => (1, "conditioned-nn-attention", attention, Some("compute_80")),
        };
        let compiled = PTX[at].get_or_init(|| {
            let options = CompileOptions { arch, ..Default::default() };
            match compile_ptx_with_opts(format!("{common}{source}"), options) {
                Ok(ptx) => Ok(ptx.to_src()),
                Err(error) => Err(format!("{error:?}")),
            }
        });
        match compiled {
            Ok(ptx) => Ok((name, ptx)),
            Err(error) => candle_core::bail!("the kernels for CUDA could not be compiled: {error}"),
        }
    }

    impl Launch {
        fn view<'a>(&self, storage: &'a CudaStorage, layout: &Layout) -> Result<View<'a>> {
            let start = self.start(layout)?;
            let range = start..start + layout.shape().elem_count();
            Ok(match storage.dtype() {
                DType::F32 => View::F32(storage.as_cuda_slice()?.slice(range)),
                DType::BF16 => View::Bf16(storage.as_cuda_slice()?.slice(range)),
                DType::U32 => View::U32(storage.as_cuda_slice()?.slice(range)),
                dtype => candle_core::bail!("{}: no input in {dtype:?}", self.kernel),
            })
        }

        fn launch(
            &self,
            device: &CudaDevice,
            inputs: &[(&CudaStorage, &Layout)],
            mut out: Out<'_>,
        ) -> Result<()> {
            let (module, ptx) = module(&self.kernel)?;
            let function = device.get_or_load_custom_func(&self.kernel, module, ptx)?;
            let views = inputs.iter().map(|(storage, layout)| self.view(storage, layout));
            let views = views.collect::<Result<Vec<_>>>()?;
            let sizes = [self.rows as i32, self.width as i32];
            let mut builder = function.builder();
            for view in &views {
                match view {
                    View::F32(view) => builder.arg(view),
                    View::Bf16(view) => builder.arg(view),
                    View::U32(view) => builder.arg(view),
                };
            }
            match &mut out {
                Out::F32(out) => builder.arg(out),
                Out::Bf16(out) => builder.arg(out),
            };
            builder.arg(&sizes[0]).arg(&sizes[1]);
            for number in &self.numbers {
                builder.arg(number);
            }
            let config = LaunchConfig {
                grid_dim: (self.blocks as u32, 1, 1),
                block_dim: (self.threads as u32, 1, 1),
                shared_mem_bytes: 0,
            };
            // SAFETY: every kernel takes these arguments and stays inside of rows and width; `cuda` makes launches
            // for tensors of these sizes alone.
            unsafe { builder.launch(config) }.w()?;
            Ok(())
        }

        pub(in crate::cuda) fn on_cuda(
            &self,
            inputs: &[(&CudaStorage, &Layout)],
        ) -> Result<(CudaStorage, Shape)> {
            let (device, len) = (inputs[0].0.device(), self.shape.elem_count() + self.behind);
            // SAFETY: a kernel writes every element that is read after it.
            let storage = match self.dtype {
                DType::F32 => {
                    let mut out = unsafe { device.alloc::<f32>(len)? };
                    self.launch(device, inputs, Out::F32(out.as_view_mut()))?;
                    CudaStorage::wrap_cuda_slice(out, device.clone())
                }
                DType::BF16 => {
                    let mut out = unsafe { device.alloc::<half::bf16>(len)? };
                    self.launch(device, inputs, Out::Bf16(out.as_view_mut()))?;
                    CudaStorage::wrap_cuda_slice(out, device.clone())
                }
                dtype => candle_core::bail!("{}: no result in {dtype:?}", self.kernel),
            };
            Ok((storage, self.shape.clone()))
        }

        pub(super) fn fill_on_cuda(
            &self,
            inputs: &[(&CudaStorage, &Layout)],
            (out, layout): (&mut CudaStorage, &Layout),
        ) -> Result<()> {
            let start = self.start(layout)?;
            let range = start..start + layout.shape().elem_count();
            let out = Out::F32(out.as_cuda_slice_mut()?.slice_mut(range));
            self.launch(inputs[0].0.device(), inputs, out)
        }
    }
}

impl InplaceOp2 for Launch {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, out: &mut CpuStorage, _: &Layout, a: &CpuStorage, la: &Layout) -> Result<()> {
        self.fill_on_host(&[(a, la)], out)
    }

    fn cuda_fwd(
        &self,
        out: &mut CudaStorage,
        layout: &Layout,
        a: &CudaStorage,
        la: &Layout,
    ) -> Result<()> {
        self.fill_on_cuda(&[(a, la)], (out, layout))
    }
}

impl InplaceOp3 for Launch {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        out: &mut CpuStorage,
        _: &Layout,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<()> {
        self.fill_on_host(&[(a, la), (b, lb)], out)
    }

    fn cuda_fwd(
        &self,
        out: &mut CudaStorage,
        layout: &Layout,
        a: &CudaStorage,
        la: &Layout,
        b: &CudaStorage,
        lb: &Layout,
    ) -> Result<()> {
        self.fill_on_cuda(&[(a, la), (b, lb)], (out, layout))
    }
}
