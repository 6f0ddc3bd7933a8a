//! A loss of a user's own: a formula of one comparison, differentiated twice and minimised like any other.

use anyhow::{Result, bail};
use rto::numerics::{log_sigmoid, sigmoid};
use rto::preference::{Compared, LossBend};

/// What a formula may name: log-ratios, log-probabilities and lengths of winner and loser, and β.
pub const VARIABLES: [&str; 7] = ["lw", "ll", "uw", "ul", "nw", "nl", "beta"];
/// What a formula may call.
pub const FUNCTIONS: [&str; 9] = [
    "exp",
    "log",
    "sqrt",
    "sigmoid",
    "logsigmoid",
    "softplus",
    "relu",
    "abs",
    "square",
];
/// The deepest nesting of a formula.
const DEEPEST: usize = 64;

/// A formula of one comparison.
#[derive(Debug, Clone)]
pub struct Formula(Node);

#[derive(Debug, Clone)]
enum Node {
    Number(f64),
    Variable(usize),
    Negative(Box<Node>),
    Binary(char, Box<Node>, Box<Node>),
    Call(usize, Box<Node>),
}

/// A number with its first and second derivatives in (u_w, u_l).
#[derive(Debug, Clone, Copy)]
struct Jet {
    value: f64,
    slope: [f64; 2],
    bend: [f64; 3],
}

impl Jet {
    fn constant(value: f64) -> Self {
        Self {
            value,
            slope: [0.0; 2],
            bend: [0.0; 3],
        }
    }

    fn variable(value: f64, which: usize) -> Self {
        let mut jet = Self::constant(value);
        jet.slope[which] = 1.0;
        jet
    }

    /// a·self + b·other, by components.
    fn combine(self, a: f64, other: Self, b: f64) -> Self {
        Self {
            value: a * self.value + b * other.value,
            slope: [0, 1].map(|k| a * self.slope[k] + b * other.slope[k]),
            bend: [0, 1, 2].map(|k| a * self.bend[k] + b * other.bend[k]),
        }
    }

    fn times(self, other: Self) -> Self {
        let (x, y) = (self, other);
        let cross = |i: usize, j: usize| x.slope[i] * y.slope[j] + x.slope[j] * y.slope[i];
        let crosses = [cross(0, 0), cross(0, 1), cross(1, 1)];
        Self {
            value: x.value * y.value,
            slope: [0, 1].map(|k| x.slope[k] * y.value + x.value * y.slope[k]),
            bend: [0, 1, 2].map(|k| x.bend[k] * y.value + x.value * y.bend[k] + crosses[k]),
        }
    }

    /// f(self) from f, f′ and f″ there.
    fn chain(self, [value, first, second]: [f64; 3]) -> Self {
        let [a, b] = self.slope;
        let squares = [a * a, a * b, b * b];
        Self {
            value,
            slope: self.slope.map(|s| first * s),
            bend: [0, 1, 2].map(|k| first * self.bend[k] + second * squares[k]),
        }
    }
}

impl Formula {
    /// Reads a formula.
    ///
    /// # Errors
    /// One line naming the place and what was expected there.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parser = Parser {
            text: text.chars().collect(),
            at: 0,
            depth: 0,
        };
        let node = parser.sum()?;
        match parser.peek() {
            None => Ok(Self(node)),
            Some(c) => bail!(
                "found {c:?} at character {}, expected an operator or the end",
                parser.at + 1
            ),
        }
    }

    /// The loss of one comparison with its derivatives in the log-probabilities.
    pub fn at(&self, compared: &Compared, beta: f64) -> LossBend {
        let jet = eval(&self.0, compared, beta);
        LossBend {
            value: jet.value,
            slope: jet.slope,
            bend: jet.bend,
        }
    }
}

fn eval(node: &Node, c: &Compared, beta: f64) -> Jet {
    match node {
        Node::Number(x) => Jet::constant(*x),
        Node::Variable(k) => match *k {
            0 | 1 => Jet::variable(c.log_ratios[*k], *k),
            2 | 3 => Jet::variable(c.log_probs[k - 2], k - 2),
            4 | 5 => Jet::constant(c.lengths[k - 4]),
            _ => Jet::constant(beta),
        },
        Node::Negative(x) => {
            let x = eval(x, c, beta);
            x.combine(-1.0, x, 0.0)
        }
        Node::Binary(op, x, y) => {
            let (x, y) = (eval(x, c, beta), eval(y, c, beta));
            match op {
                '+' => x.combine(1.0, y, 1.0),
                '-' => x.combine(1.0, y, -1.0),
                '*' => x.times(y),
                '/' => {
                    let r = 1.0 / y.value;
                    x.times(y.chain([r, -r * r, 2.0 * r * r * r]))
                }
                // A power with a constant exponent.
                _ => {
                    let (v, p) = (x.value, y.value);
                    let term = |coefficient: f64, power: f64| {
                        if coefficient == 0.0 {
                            0.0
                        } else {
                            coefficient * v.powf(power)
                        }
                    };
                    x.chain([v.powf(p), term(p, p - 1.0), term(p * (p - 1.0), p - 2.0)])
                }
            }
        }
        Node::Call(f, x) => {
            let x = eval(x, c, beta);
            let v = x.value;
            let (s, t) = (sigmoid(v), sigmoid(-v));
            x.chain(match FUNCTIONS[*f] {
                "exp" => [v.exp(); 3],
                "log" => [v.ln(), 1.0 / v, -1.0 / (v * v)],
                "sqrt" => [v.sqrt(), 0.5 / v.sqrt(), -0.25 / (v * v.sqrt())],
                "sigmoid" => [s, s * t, s * t * (t - s)],
                "logsigmoid" => [log_sigmoid(v), t, -s * t],
                "softplus" => [-log_sigmoid(-v), s, s * t],
                "relu" => [v.max(0.0), f64::from(u8::from(v > 0.0)), 0.0],
                "abs" => [v.abs(), v.signum(), 0.0],
                _ => [v * v, 2.0 * v, 2.0],
            })
        }
    }
}

struct Parser {
    text: Vec<char>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn peek(&mut self) -> Option<char> {
        while self.text.get(self.at).is_some_and(|c| c.is_whitespace()) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn take(&mut self, wanted: &[char]) -> Option<char> {
        let found = self.peek().filter(|c| wanted.contains(c))?;
        self.at += 1;
        Some(found)
    }

    fn sum(&mut self) -> Result<Node> {
        self.depth += 1;
        if self.depth > DEEPEST {
            bail!("nested more than {DEEPEST} deep");
        }
        let mut left = self.product()?;
        while let Some(op) = self.take(&['+', '-']) {
            left = Node::Binary(op, left.into(), self.product()?.into());
        }
        self.depth -= 1;
        Ok(left)
    }

    fn product(&mut self) -> Result<Node> {
        let mut left = self.sign()?;
        while let Some(op) = self.take(&['*', '/']) {
            left = Node::Binary(op, left.into(), self.sign()?.into());
        }
        Ok(left)
    }

    fn sign(&mut self) -> Result<Node> {
        let mut negative = false;
        while self.take(&['-']).is_some() {
            negative = !negative;
        }
        let node = self.power()?;
        Ok(if negative {
            Node::Negative(node.into())
        } else {
            node
        })
    }

    fn power(&mut self) -> Result<Node> {
        let base = self.atom()?;
        if self.take(&['^']).is_none() {
            return Ok(base);
        }
        let start = self.at;
        let negative = self.take(&['-']).is_some();
        match self.atom()? {
            Node::Number(p) => {
                let p = Node::Number(if negative { -p } else { p });
                Ok(Node::Binary('^', base.into(), p.into()))
            }
            _ => bail!("expected a number after ^ at character {}", start + 1),
        }
    }

    fn atom(&mut self) -> Result<Node> {
        let Some(first) = self.peek() else {
            bail!("found the end, expected a value");
        };
        let start = self.at;
        if first == '(' {
            self.at += 1;
            let inner = self.sum()?;
            self.close()?;
            return Ok(inner);
        }
        let word: String = self.text[start..]
            .iter()
            .enumerate()
            .take_while(|(k, c)| {
                let exponent = *k > 0
                    && first.is_ascii_digit()
                    && "+-".contains(**c)
                    && "eE".contains(self.text[start + k - 1]);
                c.is_ascii_alphanumeric() || **c == '.' || exponent
            })
            .map(|(_, c)| *c)
            .collect();
        self.at += word.chars().count();
        if first.is_ascii_digit() || first == '.' {
            return match word.parse::<f64>() {
                Ok(x) if x.is_finite() => Ok(Node::Number(x)),
                _ => bail!(
                    "found {word:?} at character {}, expected a number",
                    start + 1
                ),
            };
        }
        if let Some(k) = VARIABLES.iter().position(|v| *v == word) {
            return Ok(Node::Variable(k));
        }
        if let Some(f) = FUNCTIONS.iter().position(|f| *f == word) {
            if self.take(&['(']).is_none() {
                bail!("expected ( after {word} at character {}", self.at + 1);
            }
            let inner = self.sum()?;
            self.close()?;
            return Ok(Node::Call(f, inner.into()));
        }
        let found = if word.is_empty() {
            first.to_string()
        } else {
            word
        };
        bail!(
            "found {found:?} at character {}, expected a number, one of {}, or one of the functions {}",
            start + 1,
            VARIABLES.join(", "),
            FUNCTIONS.join(", ")
        )
    }

    fn close(&mut self) -> Result<()> {
        match (self.take(&[')']), self.peek()) {
            (Some(_), _) => Ok(()),
            (None, Some(c)) => bail!("found {c:?} at character {}, expected )", self.at + 1),
            (None, None) => bail!("found the end, expected )"),
        }
    }
}

#[cfg(test)]
mod tests;
