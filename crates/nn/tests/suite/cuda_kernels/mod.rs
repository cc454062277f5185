//! The kernels for CUDA, compiled for the CPU by a C++ compiler (`host.h`), against the definitions in f64.
//!
//! What runs here on a GPU are the same launches of the same text; only NVRTC and the hardware are missing.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use candle_core::{CpuStorage, DType, Device, Module, Result, Tensor, Var};
use conditioned_nn::cuda::{Launch, SOURCES, emulate};
use conditioned_nn::{Gelu, Linear, Precision, device, reference};
use proptest::prelude::*;

use crate::networks::{
    BF16_TOLERANCE, FULL, MIXED, MIXED_TOLERANCE, Packed, TILES, adamw_is_its_formula, assert_near,
    images, layers, masks, packed_attention,
};
use crate::{F32_TOLERANCE, distance, uniform};

type Entry = unsafe extern "C" fn(
    kernel: *mut c_void,
    inputs: i32,
    a: *const c_void,
    b: *const c_void,
    c: *const c_void,
    out: *mut c_void,
    rows: i32,
    width: i32,
    numbers: *const f32,
    blocks: i32,
    threads: i32,
);

/// The kernels as a library of the CPU; one launch runs at a time.
#[allow(unsafe_code)]
fn library() -> &'static Mutex<libloading::Library> {
    static LIBRARY: OnceLock<Mutex<libloading::Library>> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let (source, built) = (folder.path().join("kernels.cpp"), folder.path().join("kernels.so"));
        std::fs::write(&source, SOURCES.concat()).unwrap();
        let host = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/cuda_kernels/host.h");
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_string());
        let mut command = Command::new(&compiler);
        command.args([
            "-std=c++20",
            "-O1",
            "-shared",
            "-fPIC",
            "-pthread",
            "-ffp-contract=off",
            "-fno-strict-aliasing",
        ]);
        command.arg("-include").arg(host).arg(source).arg("-o").arg(&built);
        let done = command.output();
        let done = done.unwrap_or_else(|error| {
            panic!("{compiler}: {error}: these tests need a compiler for C++20")
        });
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        // SAFETY: the library has no code that runs when it is loaded.
        Mutex::new(unsafe { libloading::Library::new(built) }.unwrap())
    })
}

fn start(storage: &CpuStorage, at: usize) -> *const c_void {
    match storage {
        CpuStorage::F32(x) => x[at..].as_ptr().cast(),
        CpuStorage::BF16(x) => x[at..].as_ptr().cast(),
        CpuStorage::U32(x) => x[at..].as_ptr().cast(),
        _ => panic!("no kernel takes this dtype"),
    }
}

thread_local! {
    /// The kernels that this thread has launched.
    static LAUNCHED: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

/// Runs a launch on the CPU.
#[allow(unsafe_code)]
fn host(launch: &Launch, inputs: &[(&CpuStorage, usize)], out: &mut CpuStorage) -> Result<()> {
    LAUNCHED.with_borrow_mut(|launched| launched.insert(launch.kernel().to_string()));
    let library = library().lock().unwrap_or_else(PoisonError::into_inner);
    let out = match out {
        CpuStorage::F32(out) => out.as_mut_ptr().cast(),
        CpuStorage::BF16(out) => out.as_mut_ptr().cast(),
        _ => panic!("no kernel makes this dtype"),
    };
    let pointer = |i: usize| inputs.get(i).map_or(std::ptr::null(), |&(x, at)| start(x, at));
    let ([rows, width], [blocks, threads]) = (launch.sizes(), launch.geometry());
    // SAFETY: `launch` and the kernels are what host.h and the kernels declare.
    unsafe {
        let entry = library.get::<Entry>(b"launch").unwrap();
        let kernel = library.get::<*mut c_void>(launch.kernel().as_bytes()).unwrap();
        let kernel = kernel.try_as_raw_ptr().unwrap();
        let size = |x: usize| i32::try_from(x).unwrap();
        entry(
            kernel,
            size(inputs.len()),
            pointer(0),
            pointer(1),
            pointer(2),
            out,
            size(rows),
            size(width),
            launch.numbers().as_ptr(),
            size(blocks),
            size(threads),
        );
    }
    Ok(())
}

/// The value and the gradients of sum(f w) for fixed weights w.
fn derived(
    inputs: &[Tensor],
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<(Tensor, Vec<Tensor>)> {
    let variables = inputs.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
    let tensors: Vec<_> = variables.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tensors)?;
    let weights = uniform(y.dims(), 77)?.to_dtype(y.dtype())?;
    let grads = (&y * weights)?.sum_all()?.backward()?;
    let of = |v: &Var| Ok(grads.get(v).expect("a gradient").clone());
    Ok((y, variables.iter().map(of).collect::<Result<_>>()?))
}

/// Asserts that kernels in `dtype` agree with a definition in f64, value and gradients, relative to the largest entry.
fn agree(
    inputs: &[Tensor],
    dtype: DType,
    kernels: impl Fn(&[Tensor]) -> Result<Tensor>,
    definition: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    let rounded = inputs.iter().map(|x| x.to_dtype(dtype)).collect::<Result<Vec<_>>>()?;
    let exact = rounded.iter().map(|x| x.to_dtype(DType::F64)).collect::<Result<Vec<_>>>()?;
    let (y, got) = emulate(host, || derived(&rounded, kernels))?;
    let (want_y, want) = derived(&exact, definition)?;
    let tolerance = if dtype == DType::BF16 { BF16_TOLERANCE } else { F32_TOLERANCE };
    for (i, (got, want)) in [y].iter().chain(&got).zip([want_y].iter().chain(&want)).enumerate() {
        let size = want.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()?.max(1e-3);
        let error = distance(got, want)? / size;
        assert!(error < tolerance, "{i} (0 is the value) is off by {error:e} in {dtype:?}");
    }
    Ok(())
}

const DTYPES: [DType; 2] = [DType::F32, DType::BF16];

/// From 8 channels on: the variance of fewer can be so small that f32 input does not resolve it.
fn norms_agree(rows: usize, c: usize) {
    let x = uniform(&[rows, c], 1).unwrap();
    let (w, b) = (uniform(&[c], 2).unwrap(), uniform(&[c], 3).unwrap());
    agree(
        &[x.clone(), w.clone(), b],
        DType::F32,
        |v| device::layer_norm(&v[0], &v[1], &v[2], 1e-5),
        |v| reference::layer_norm(&v[0], &v[1], &v[2], 1e-5),
    )
    .unwrap();
    agree(
        &[x, w],
        DType::F32,
        |v| device::rms_norm(&v[0], &v[1], 1e-5),
        |v| reference::rms_norm(&v[0], &v[1], 1e-5),
    )
    .unwrap();
}

/// Without its matrix of scores, tile by tile.
#[test]
fn attention_in_tiles() -> Result<()> {
    for case in &TILES {
        let got = emulate(host, || packed_attention(&Device::Cpu, DType::BF16, case))?;
        let want = packed_attention(&Device::Cpu, DType::F64, case)?;
        assert_near(&got, &want, BF16_TOLERANCE)?;
    }
    for kernel in ["attention_32", "attention_64", "attention_padded_32", "attention_padded_64"] {
        assert!(LAUNCHED.with_borrow(|launched| launched.contains(kernel)), "no {kernel}");
    }
    Ok(())
}

/// Two parts of rows.
#[test]
fn norms_of_many_rows() {
    norms_agree(270, 9);
}

fn rows_agree(n: usize, count: usize, width: usize) {
    let ids: Vec<u32> = (0..n).map(|i| (i * i % 7 % count) as u32).collect();
    agree(
        &[uniform(&[count, width], 1).unwrap()],
        DType::F32,
        |v| device::rows(&v[0], ids.clone()),
        |v| v[0].index_select(&Tensor::new(&ids[..], &Device::Cpu)?, 0),
    )
    .unwrap();
}

/// Rows with more places than a warp adds, as those of the types of tokens.
#[test]
fn rows_that_occur_thousands_of_times() {
    rows_agree(5000, 3, 40);
    rows_agree(1024, 1, 3);
    rows_agree(1025, 9, 33);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn norms(rows in 1usize..40, c in 8usize..70) {
        norms_agree(rows, c);
    }

    #[test]
    fn softmax(rows in 1usize..20, c in 1usize..80) {
        let x = (uniform(&[rows, c], 1).unwrap() * 5.0).unwrap();
        for dtype in DTYPES {
            agree(
                std::slice::from_ref(&x),
                dtype,
                |v| device::softmax(&v[0]),
                |v| candle_nn::ops::softmax(&v[0], 1),
            ).unwrap();
        }
    }

    #[test]
    fn attention(b in 1usize..3, n in 2usize..12, h in 1usize..3, d in 1usize..10) {
        let qkv = uniform(&[b, n, 3 * h * d], 1).unwrap();
        for causal in [false, true] {
            agree(
                std::slice::from_ref(&qkv),
                DType::F32,
                |v| device::attention(&v[0], h, causal),
                |v| reference::attention(&v[0], h, causal),
            ).unwrap();
        }
    }

    // In tiles of 64 tokens.
    #[test]
    fn attention_without_scores(n in 1usize..80, padding in 0usize..70, h in 1usize..3, causal: bool) {
        let lengths: &[usize] = if padding == 0 { &[] } else { &[n] };
        let case = Packed { sizes: [1, n + padding, h, 32], causal, lengths };
        let got = emulate(host, || packed_attention(&Device::Cpu, DType::BF16, &case)).unwrap();
        let want = packed_attention(&Device::Cpu, DType::F64, &case).unwrap();
        assert_near(&got, &want, BF16_TOLERANCE).unwrap();
    }

    #[test]
    fn bias(rows in 1usize..20, c in 1usize..40) {
        let inputs = [uniform(&[rows, c], 1).unwrap(), uniform(&[c], 2).unwrap()];
        for dtype in DTYPES {
            agree(
                &inputs,
                dtype,
                |v| device::add_bias(&v[0], Some(&v[1]), Precision::Full),
                |v| v[0].broadcast_add(&v[1]),
            ).unwrap();
        }
    }

    // Rows that occur once, often and not at all.
    #[test]
    fn rows_of_a_table(n in 1usize..40, count in 1usize..20, width in 1usize..70) {
        rows_agree(n, count, width);
    }

    #[test]
    fn linear_in_bf16(rows in 1usize..20, i in 1usize..20, o in 1usize..20) {
        let inputs = [uniform(&[rows, i], 1), uniform(&[o, i], 2), uniform(&[o], 3)];
        agree(
            &inputs.map(Result::unwrap),
            DType::BF16,
            |v| Linear::new(v[1].clone(), Some(v[2].clone())).forward(&v[0]),
            |v| reference::linear(&v[0], &v[1], Some(&v[2])),
        ).unwrap();
    }

    #[test]
    fn gelu(rows in 1usize..20, c in 1usize..40) {
        let x = (uniform(&[rows, c], 1).unwrap() * 6.0).unwrap();
        for dtype in DTYPES {
            for form in [Gelu::Erf, Gelu::Tanh] {
                agree(
                    std::slice::from_ref(&x),
                    dtype,
                    |v| device::gelu(&v[0], form),
                    |v| match form {
                        Gelu::Erf => reference::gelu(&v[0]),
                        Gelu::Tanh => reference::gelu_tanh(&v[0]),
                    },
                ).unwrap();
            }
        }
    }
}

/// Rows wider than a block has threads, and some without a label.
#[test]
fn cross_entropy_of_labels() {
    let labels = [3, u32::MAX, 1499, 0];
    let (x, w) = (uniform(&[4, 6], 1).unwrap(), uniform(&[1500, 6], 2).unwrap());
    for dtype in DTYPES {
        agree(
            &[x.clone(), w.clone()],
            dtype,
            |v| device::linear_cross_entropy(&v[0], &v[1], &labels),
            |v| reference::linear_cross_entropy(&v[0], &v[1], &labels),
        )
        .unwrap();
    }
}

/// Whole networks by the kernels in bf16, and in f32.
#[test]
fn networks_in_mixed_precision() -> Result<()> {
    for network in [layers, images] {
        let kernels = emulate(host, || network(&Device::Cpu, MIXED))?;
        assert_near(&kernels, &network(&Device::Cpu, FULL)?, MIXED_TOLERANCE)?;
    }
    for kernel in ["attention_32", "attention_gradient_32", "gelu_forward_bf16", "add_bias_bf16"] {
        assert!(LAUNCHED.with_borrow(|launched| launched.contains(kernel)), "no {kernel}");
    }
    Ok(())
}

/// Bit for bit.
#[test]
fn masks_are_those_of_the_cpu() -> Result<()> {
    // In full precision the CPU has kernels of its own.
    let got = emulate(host, || masks(&Device::Cpu, MIXED))?;
    for (got, want) in got.iter().zip(&masks(&Device::Cpu, MIXED)?) {
        assert_eq!(distance(got, want)?, 0.0);
    }
    Ok(())
}

#[test]
fn adamw_in_place() -> Result<()> {
    assert!(adamw_is_its_formula(&Device::Cpu).is_err(), "no kernel serves the CPU");
    emulate(host, || adamw_is_its_formula(&Device::Cpu))
}
