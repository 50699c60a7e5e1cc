//! The kernels that only training launches.

use crate::cuda::module::Kernel;

const RESIDUAL_FILE: &str = include_str!("../../../kernels/ptx/residual.ptx");
pub(in crate::cuda) const RESIDUAL_F32: Kernel = Kernel { name: "residual_f32", ptx: RESIDUAL_FILE };
pub(in crate::cuda) const RESIDUAL_BF16: Kernel = Kernel { name: "residual_bf16", ptx: RESIDUAL_FILE };
pub(in crate::cuda) const BEGIN_F32: Kernel = Kernel { name: "begin_f32", ptx: RESIDUAL_FILE };
pub(in crate::cuda) const BEGIN_BF16: Kernel = Kernel { name: "begin_bf16", ptx: RESIDUAL_FILE };
pub(in crate::cuda) const MASK_ROWS: Kernel = Kernel { name: "mask_rows", ptx: RESIDUAL_FILE };

const NORM_FILE: &str = include_str!("../../../kernels/ptx/norm_backward.ptx");
pub(in crate::cuda) const NORM_BACKWARD_F32: Kernel = Kernel { name: "norm_backward_f32", ptx: NORM_FILE };
pub(in crate::cuda) const NORM_BACKWARD_BF16: Kernel = Kernel { name: "norm_backward_bf16", ptx: NORM_FILE };

const COLUMNS_FILE: &str = include_str!("../../../kernels/ptx/columns.ptx");
pub(in crate::cuda) const COLUMN_SUMS_F32: Kernel = Kernel { name: "column_sums_f32", ptx: COLUMNS_FILE };
pub(in crate::cuda) const COLUMN_SUMS_BF16: Kernel = Kernel { name: "column_sums_bf16", ptx: COLUMNS_FILE };
pub(in crate::cuda) const NORM_SUMS: Kernel = Kernel { name: "norm_sums", ptx: COLUMNS_FILE };
pub(in crate::cuda) const ADD_PARTS: Kernel = Kernel { name: "add_parts", ptx: COLUMNS_FILE };

const TAPE_FILE: &str = include_str!("../../../kernels/ptx/attend_tape.ptx");
pub(in crate::cuda) const ATTEND_TAPE_F32: Kernel = Kernel { name: "attend_tape_f32", ptx: TAPE_FILE };
pub(in crate::cuda) const ATTEND_TAPE_BF16: Kernel = Kernel { name: "attend_tape_bf16", ptx: TAPE_FILE };

const ATTEND_FILE: &str = include_str!("../../../kernels/ptx/attend_backward.ptx");
pub(in crate::cuda) const ATTEND_BACKWARD_QUERIES_F32: Kernel =
    Kernel { name: "attend_backward_queries_f32", ptx: ATTEND_FILE };
pub(in crate::cuda) const ATTEND_BACKWARD_QUERIES_BF16: Kernel =
    Kernel { name: "attend_backward_queries_bf16", ptx: ATTEND_FILE };
pub(in crate::cuda) const ATTEND_BACKWARD_KEYS_F32: Kernel =
    Kernel { name: "attend_backward_keys_f32", ptx: ATTEND_FILE };
pub(in crate::cuda) const ATTEND_BACKWARD_KEYS_BF16: Kernel =
    Kernel { name: "attend_backward_keys_bf16", ptx: ATTEND_FILE };

const LOSS_FILE: &str = include_str!("../../../kernels/ptx/cross_entropy.ptx");
pub(in crate::cuda) const CROSS_ENTROPY_F32: Kernel = Kernel { name: "cross_entropy_f32", ptx: LOSS_FILE };
pub(in crate::cuda) const CROSS_ENTROPY_BF16: Kernel = Kernel { name: "cross_entropy_bf16", ptx: LOSS_FILE };
pub(in crate::cuda) const SOFT_CROSS_ENTROPY: Kernel = Kernel { name: "soft_cross_entropy", ptx: LOSS_FILE };

const SCATTER_FILE: &str = include_str!("../../../kernels/ptx/scatter.ptx");
pub(in crate::cuda) const SEGMENT_SUMS: Kernel = Kernel { name: "segment_sums", ptx: SCATTER_FILE };
pub(in crate::cuda) const ADD_SEGMENTS: Kernel = Kernel { name: "add_segments", ptx: SCATTER_FILE };
pub(in crate::cuda) const POOL_BACKWARD: Kernel = Kernel { name: "pool_backward", ptx: SCATTER_FILE };

const OPTIMIZER_FILE: &str = include_str!("../../../kernels/ptx/adam.ptx");
pub(in crate::cuda) const SQUARES: Kernel = Kernel { name: "squares", ptx: OPTIMIZER_FILE };
pub(in crate::cuda) const CLIP: Kernel = Kernel { name: "clip", ptx: OPTIMIZER_FILE };
pub(in crate::cuda) const ADAM: Kernel = Kernel { name: "adam", ptx: OPTIMIZER_FILE };

const GRADIENT_FILE: &str = include_str!("../../../kernels/ptx/product_bf16_gradient.ptx");
pub(in crate::cuda) const PRODUCT_BF16_GRADIENT: Kernel = Kernel { name: "product_bf16_gradient", ptx: GRADIENT_FILE };
pub(in crate::cuda) const PRODUCT_BF16_GRADIENT_SMALL: Kernel =
    Kernel { name: "product_bf16_gradient_small", ptx: GRADIENT_FILE };
