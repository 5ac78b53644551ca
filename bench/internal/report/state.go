package report

import "github.com/tandemipc/tandem/bench/internal/measure"

// chartedState is the state of the machine that most results are of: a line of a chart
// must not mix them.
func chartedState(sections []Section) (state measure.State) {
	count := make(map[measure.State]int)
	for _, s := range sections {
		for i := range s.Results {
			count[s.Results[i].State]++
		}
	}
	for _, s := range []measure.State{measure.Near, measure.Far} {
		if count[s] > 0 && (count[s] > count[state] || state == measure.Unknown) {
			state = s
		}
	}
	return state
}

// aboutStates says what the states of the machine are, "" if they are not known.
func aboutStates(sections []Section) string {
	charted := chartedState(sections)
	if charted == measure.Unknown {
		return ""
	}
	return "How long a cache line takes from one processor to another and back changes on virtual machines, for seconds each, and all figures " +
		"move with it. It was timed before and after each sample: line. Processors are near below 200 ns, and far above. Only figures of equal states " +
		"are compared, and samples in which the state changed are left out. Charts are of the state " + string(charted) + "."
}
