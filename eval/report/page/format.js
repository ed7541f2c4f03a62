// Numbers as people read them. null: not measured.
const kNone = "–";

const formatWith = (digits) => {
  const format = new Intl.NumberFormat("en", {
    minimumFractionDigits: digits, maximumFractionDigits: digits});
  // "-0.0" would look like a loss.
  return (value) => value === null || value === undefined
    ? kNone : format.format(value).replace(/^-(?=0(\.0*)?$)/, "").replace("-", "−");
};
const points = formatWith(1);
const count = formatWith(0);
const plain = (value) => String(Number(value.toPrecision(3))).replace("-", "−");
const kl = (value) => value === null || value === undefined
  ? kNone : value === 0 ? "0" : value < 1e-6 ? "<0.000001" : value.toPrecision(2);
const percent = (value) => value === null || value === undefined
  ? kNone : `${(100 * value).toFixed(value > 0 && value < 0.0995 ? 1 : 0)} %`;
const times = (value) => value === null || value === undefined ? kNone : `${value.toFixed(2)}×`;
const duration = (ms) => ms === null || ms === undefined ? kNone
  : ms < 999.5 ? `${ms.toFixed(ms < 10 ? 1 : 0)} ms`
  : ms < 99950 ? `${(ms / 1000).toFixed(ms < 9995 ? 2 : 1)} s`
  : `${Math.floor(ms / 60000)} min ${String(Math.round(ms / 1000) % 60).padStart(2, "0")} s`;
const cssShare = (value) => `${(100 * Math.min(value, 1)).toFixed(1)}%`;
const tokens = (length) => `${count(length)} tokens`;
const taskName = (task) => task.replaceAll("_", " ");

// An estimate's mean; the interval follows it.
const meanOf = (estimate) => estimate ? estimate.mean : null;
const cases = (number) => `${count(number)} ${number === 1 ? "case" : "cases"}`;
const interval = (estimate, format) => !estimate ? ""
  : estimate.count === 1 ? "1 case" : `${format(estimate.low)} to ${format(estimate.high)}`;
const withInterval = (estimate, format) => estimate
  ? `${format(estimate.mean)} (${interval(estimate, format)})` : kNone;
