package report

// The colours of Okabe and Ito, which people with any colour vision can tell apart, and
// darker and lighter ones for pages with more subjects.
var colours = []string{
	"0072B2", "D55E00", "009E73", "CC79A7", "E69F00", "56B4E9", "000000", "8B5A2B", "7B68EE", "808080",
	"004466", "8A2F00", "00573F", "7A3B62", "B8860B", "2E8B57", "4B0082", "A52A2A", "5F9EA0", "BDB76B",
}

// known are subjects that have the same colours on all pages: the first ones.
var known = []string{"shm", "socket", "shm in place", "socket in place", "shm park", "shm spin"}

// paint gives the lines of all charts their colours: the same name has the same colour
// everywhere, and as long as there are colours no two names share one.
func paint(sections []Section, all map[string][]Chart) {
	of := make(map[string]string)
	for i, name := range known {
		of[name] = colours[i]
	}
	next := len(known)
	for _, s := range sections {
		for _, c := range all[s.Name] {
			for i := range c.Lines {
				l := &c.Lines[i]
				if of[l.Name] == "" {
					of[l.Name] = colours[next%len(colours)]
					next++
				}
				l.Colour = of[l.Name]
			}
		}
	}
}
