//! Faults that are planted in the text of the kernels one at a time, each of which a check must find.

use super::harness::{Bench, Check, Executor};
use super::{attention, generate, head, norms, step};

/// The kernels of a check, and the check.
struct Suite {
    kernels: &'static [&'static str],
    check: Check,
}

const ELEMENTS: Suite = Suite {
    kernels: &["add", "add_bias", "narrow", "clear", "cap_all"],
    check: norms::elements,
};
const COPIES: Suite = Suite {
    kernels: &["gather_rows", "regroup"],
    check: norms::copies,
};
const LAYER_NORM: Suite = Suite {
    kernels: &[
        "layer_norm",
        "layer_norm_backward",
        "norm_gain_partial",
        "column_sums_partial",
        "column_sums_finish",
    ],
    check: norms::layer_norm,
};
const RMS_NORM: Suite = Suite {
    kernels: &[
        "rms_norm",
        "rms_norm_backward",
        "norm_gain_partial",
        "column_sums_partial",
        "column_sums_finish",
    ],
    check: norms::rms_norm,
};
const HEADS: Suite = Suite {
    kernels: &[
        "heads_split",
        "heads_split_backward",
        "heads_pack",
        "heads_pad",
    ],
    check: attention::split_heads,
};
const SOFTMAX: Suite = Suite {
    kernels: &["softmax", "softmax_backward"],
    check: attention::softmax,
};
const ACTIVATION: Suite = Suite {
    kernels: &[
        "activation",
        "activation_backward",
        "gated",
        "gated_backward",
    ],
    check: attention::activation,
};
const EMBEDDING: Suite = Suite {
    kernels: &["embed", "embed_backward"],
    check: attention::embedding,
};
const HEAD: Suite = Suite {
    kernels: &["head_scan", "head_finish", "head_pull"],
    check: head::head,
};
const STEP: &[&str] = &[
    "squares_partial",
    "gradient_norm",
    "split",
    "join",
    "adamw",
    "adamw_split",
    "adamw_eight_bit",
    "adamw_eight_bit_split",
];
const ADAMW: Suite = Suite {
    kernels: STEP,
    check: step::adamw,
};
const SPLIT: Suite = Suite {
    kernels: STEP,
    check: step::split,
};
const EIGHT_BIT: Suite = Suite {
    kernels: STEP,
    check: step::eight_bit,
};
const DECODE: Suite = Suite {
    kernels: &["cache_append", "decode_attention"],
    check: generate::decode,
};
const DRAW: Suite = Suite {
    kernels: &["draw"],
    check: generate::draw,
};

/// A fault: its name, a text that stands before it, what is replaced, and by what.
type Fault = (
    &'static str,
    &'static Suite,
    &'static str,
    &'static str,
    &'static str,
);

const BARRIER: &str = "__syncthreads();";

const FAULTS: &[Fault] = &[
    (
        "a bias at the wrong stride",
        &ELEMENTS,
        "KERNEL add_bias",
        "i / width * stride",
        "i / width * width",
    ),
    (
        "a row that is not there, read all the same",
        &COPIES,
        "KERNEL gather_rows",
        "row == 0xffffffffu ? put(0.0f) : from[(wide)row * width + j]",
        "from[(wide)(row == 0xffffffffu ? 0 : row) * width + j]",
    ),
    (
        "pieces of one row in another's place",
        &COPIES,
        "KERNEL regroup",
        "row * to_row",
        "row * from_row",
    ),
    (
        "no barrier between reading the scratch of a sum and writing it again",
        &LAYER_NORM,
        "x = warp_sum(x);",
        BARRIER,
        "",
    ),
    (
        "no barrier between a sum's warps and their total",
        &LAYER_NORM,
        "scratch[warp_of()] = x;",
        BARRIER,
        "",
    ),
    (
        "no barrier between reading the scratch of a maximum and writing it again",
        &EIGHT_BIT,
        "x = fmaxf(x, __shfl",
        BARRIER,
        "",
    ),
    (
        "no barrier between a maximum's warps and the largest",
        &SOFTMAX,
        "float block_max",
        "__syncthreads();\n    float top",
        "float top",
    ),
    (
        "a sum over half a warp",
        &RMS_NORM,
        "T warp_sum(T x)",
        "step = 16",
        "step = 8",
    ),
    (
        "a maximum shuffled one way",
        &EIGHT_BIT,
        "float block_max",
        "__shfl_xor_sync",
        "__shfl_up_sync",
    ),
    (
        "a sum of the first warp alone",
        &LAYER_NORM,
        "T total = 0;",
        "w < warps()",
        "w < 1",
    ),
    (
        "a tail that is not written",
        &LAYER_NORM,
        "block_sum(square, shared)",
        "j < width",
        "j < width - 1",
    ),
    (
        "a write past the end of a row",
        &LAYER_NORM,
        "block_sum(square, shared)",
        "j < width",
        "j <= width",
    ),
    (
        "statistics at the wrong stride",
        &LAYER_NORM,
        "KERNEL layer_norm(",
        "stats[2 * row + 1] = scale",
        "stats[row + 1] = scale",
    ),
    (
        "a gradient that overwrites what it is added to",
        &LAYER_NORM,
        "KERNEL layer_norm_backward",
        "more ? get(dx[j]) + d : d",
        "d",
    ),
    (
        "a barrier that some threads do not reach",
        &RMS_NORM,
        "KERNEL rms_norm(",
        "float scale = 1.0f / sqrtf(block_sum(square, shared) / width + epsilon);",
        "float scale = threadIdx.x < width ? 1.0f / sqrtf(block_sum(square, shared) / width + epsilon) : 0.0f;",
    ),
    (
        "a gain without its offset",
        &RMS_NORM,
        "KERNEL rms_norm_backward",
        "(offset + get(gain[j]))",
        "get(gain[j])",
    ),
    (
        "chunks of column sums in one place",
        &LAYER_NORM,
        "KERNEL column_sums_partial",
        "(wide)blockIdx.y * width + j",
        "j",
    ),
    (
        "the last row left out of column sums",
        &LAYER_NORM,
        "KERNEL norm_gain_partial",
        "min(from + chunk, rows)",
        "min(from + chunk, rows - 1)",
    ),
    (
        "keys at the wrong stride",
        &HEADS,
        "KERNEL heads_split(",
        "key_at + head * step",
        "key_at + head * head_dim",
    ),
    (
        "gradients turned forward",
        &HEADS,
        "KERNEL heads_split_backward",
        "-1.0f",
        "1.0f",
    ),
    (
        "neighbours paired as halves",
        &HEADS,
        "float turned(",
        "neighbours ? d / 2 : d % half",
        "d % half",
    ),
    (
        "padding that is not cleared",
        &HEADS,
        "KERNEL heads_pad",
        ": put(0.0f)",
        ": padded[0]",
    ),
    (
        "no causal mask",
        &SOFTMAX,
        "KERNEL softmax(",
        "j >= from && j <= i",
        "j >= from",
    ),
    (
        "a window one key too wide",
        &SOFTMAX,
        "KERNEL softmax(",
        "max(0, i + 1 - window)",
        "max(0, i - window)",
    ),
    (
        "rows of padding that are not cleared",
        &SOFTMAX,
        "KERNEL softmax(",
        "for (int j = threadIdx.x; j < time; j += blockDim.x) p[j] = put(0.0f);",
        "",
    ),
    (
        "a cap without its slope",
        &SOFTMAX,
        "KERNEL softmax_backward",
        "if (cap > 0.0f) slope *= 1.0f - (s / cap) * (s / cap);",
        "",
    ),
    (
        "a gate at the wrong stride",
        &ACTIVATION,
        "KERNEL gated(",
        "i / width * stride",
        "i / width * width",
    ),
    (
        "the slope of another activation",
        &ACTIVATION,
        "Pair activated",
        "s * (x * (1.0f - s) + 1.0f)",
        "s * (x * (1.0f - s) + s)",
    ),
    (
        "a scatter in the order of rows",
        &EMBEDDING,
        "KERNEL embed_backward",
        "order[i]",
        "i",
    ),
    (
        "a scatter that overwrites",
        &EMBEDDING,
        "KERNEL embed_backward",
        "to[j] += factor * sum",
        "to[j] = factor * sum",
    ),
    (
        "sums of tiles that are not brought to one maximum",
        &HEAD,
        "KERNEL head_scan",
        "fmaf(running[SUM], factor, sum)",
        "running[SUM] + sum",
    ),
    (
        "a target counted from the vocabulary's start",
        &HEAD,
        "KERNEL head_scan",
        "(int)targets[row] - first",
        "(int)targets[row]",
    ),
    (
        "a row's number read from the row before",
        &HEAD,
        "KERNEL head_pull",
        "float factor = -g[row]",
        "float factor = -g[row > 0 ? row - 1 : 0]",
    ),
    (
        "a capped logit without its slope",
        &HEAD,
        "KERNEL head_pull",
        "if (cap > 0.0f) {",
        "if (cap < 0.0f) {",
    ),
    (
        "the last of a block's squares left out",
        &ADAMW,
        "KERNEL squares_partial",
        "from + chunk : count",
        "from + chunk : count - 1",
    ),
    (
        "a step past the last weight",
        &ADAMW,
        "KERNEL adamw(",
        "i >= count || ",
        "",
    ),
    (
        "a master without its carry",
        &SPLIT,
        "float joined(",
        "(low & 0x8000u ? 0x10000u : 0u)",
        "0u",
    ),
    (
        "both moments rounded up together",
        &EIGHT_BIT,
        "void encode_moments",
        "dither ^ 0x80000u",
        "dither",
    ),
    (
        "a scale of one warp",
        &EIGHT_BIT,
        "void encode_moments",
        "scale_of(block_max(fabsf(x.m), shared))",
        "scale_of(fabsf(x.m))",
    ),
    (
        "all heads in one place of the cache",
        &DECODE,
        "KERNEL cache_append",
        "* kv_heads + head)",
        "* kv_heads)",
    ),
    (
        "no barrier between the query and its use",
        &DECODE,
        "query[d] = get(",
        BARRIER,
        "",
    ),
    (
        "no barrier between the warps' sums and their total",
        &DECODE,
        "own[head_dim + 1] = sum;",
        BARRIER,
        "",
    ),
    (
        "query heads that read the wrong keys",
        &DECODE,
        "KERNEL decode_attention",
        "head / (heads / kv_heads)",
        "head % kv_heads",
    ),
    (
        "a token that does not see itself",
        &DECODE,
        "KERNEL decode_attention",
        "j <= position",
        "j < position",
    ),
    (
        "warps' sums that are not brought to one maximum",
        &DECODE,
        "KERNEL decode_attention",
        "fmaf(part[d], factor, value)",
        "value + part[d]",
    ),
    (
        "shared memory past its end",
        &DECODE,
        "KERNEL decode_attention",
        "sums = shared + head_dim",
        "sums = shared + 2 * head_dim",
    ),
    (
        "no barrier between spans and their sums",
        &DRAW,
        "count_scratch[64 + warp] = ties;",
        BARRIER,
        "",
    ),
    (
        "counts over the masses of spans",
        &DRAW,
        "KERNEL draw(",
        "count_scratch[64 + warp] = ties;",
        "count_scratch[warp] = ties;",
    ),
    (
        "a prefix sum that leaves out a lane",
        &DRAW,
        "KERNEL draw(",
        "lane >= step",
        "lane > step",
    ),
    (
        "one tie too many",
        &DRAW,
        "KERNEL draw(",
        "earlier < left_there",
        "earlier <= left_there",
    ),
    (
        "one token too many of the highest",
        &DRAW,
        "KERNEL draw(",
        ">= (u32)top_k",
        "> (u32)top_k",
    ),
    (
        "a uniform number of another row",
        &DRAW,
        "KERNEL draw(",
        "uniforms[row]",
        "uniforms[0]",
    ),
];

/// The text with a fault planted behind its mark.
fn planted(text: &str, (name, _, mark, from, to): &Fault) -> String {
    let at = text
        .find(mark)
        .unwrap_or_else(|| panic!("{name}: the kernels have no {mark:?}"));
    let (before, rest) =
        text.split_at(at + mark.len() - if mark.ends_with(from) { from.len() } else { 0 });
    assert!(rest.contains(from), "{name}: no {from:?} behind {mark:?}");
    format!("{before}{}", rest.replacen(from, to, 1))
}

/// How each fault was found; the names of those that were not.
pub fn all(shapes: u64) -> (Vec<String>, Vec<&'static str>) {
    use rto_device::{Emulated, KERNELS, Order, Real};
    let (mut found, mut missed) = (Vec::new(), Vec::new());
    for fault in FAULTS {
        let (name, suite, ..) = fault;
        let text = planted(KERNELS, fault);
        let device = Emulated::with_part(&text, suite.kernels, Order::Forward)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let bench = Bench::new(Executor::Emulated(device), Real::F32);
        match (0..shapes).find_map(|case| (suite.check)(&bench, case).err()) {
            Some(why) => found.push(format!("{name}: {why}")),
            None => missed.push(*name),
        }
    }
    (found, missed)
}
