package natsipc

import (
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// Discovery and statistics are those of package micro. Its own service would measure how long it takes to start the
// goroutine of a call, and would take over the handlers of the connection.

// stats are the statistics of a service.
type stats struct {
	mu        sync.Mutex
	started   time.Time
	bySubject map[string]*micro.EndpointStats
	most      int    // subjects that are remembered
	all       string // stands for all calls, if the service shows no methods: ends with >
}

// maxOthers bounds the subjects without a handler that are remembered.
const maxOthers = 1000

// maxLastError is how many bytes of an error the statistics keep.
const maxLastError = 200

// note notes how a call has ended.
func (s *stats) note(subject string, took time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all != "" && strings.HasPrefix(subject, s.all[:len(s.all)-1]) {
		subject = s.all
	}
	e := s.bySubject[subject]
	if e == nil {
		if len(s.bySubject) >= s.most {
			return
		}
		e = new(micro.EndpointStats)
		s.bySubject[subject] = e
	}
	e.NumRequests++
	e.ProcessingTime += took
	e.AverageProcessingTime = e.ProcessingTime / time.Duration(e.NumRequests)
	if err != nil {
		e.NumErrors++
		why := err.Error()
		if len(why) > maxLastError {
			why = strings.ToValidUTF8(why[:maxLastError], "")
		}
		e.LastError = strings.Clone(why)
	}
}

// of returns the statistics of a subject.
func (s *stats) of(subject string) micro.EndpointStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.bySubject[subject]; e != nil {
		return *e
	}
	return micro.EndpointStats{}
}

// endpointName is a method's name as the tools for micro services allow it.
func endpointName(method string) string {
	return strings.NewReplacer(".", "_", "%", "_").Replace(subjectOf(method))
}

// endpoints calls f for each method that the service shows.
func (h *host) endpoints(f func(name, subject string)) {
	seen := make(map[string]bool)
	for _, m := range h.names.all() {
		token := tokenCall
		if m.Stream {
			token = tokenStream
		}
		if subject := h.base + token + "." + subjectOf(m.Name); !seen[subject] {
			seen[subject] = true
			f(endpointName(m.Name), subject)
		}
	}
	if len(seen) == 0 {
		f("any", h.base+tokenCall+".>")
	}
}

func (h *host) identity() micro.ServiceIdentity {
	md := h.svc.Metadata
	if md == nil {
		md = map[string]string{}
	}
	return micro.ServiceIdentity{Name: h.svc.Name, ID: h.id, Version: h.svc.Version, Metadata: md}
}

func (h *host) ping() any {
	return micro.Ping{ServiceIdentity: h.identity(), Type: micro.PingResponseType}
}

func (h *host) info() any {
	i := micro.Info{ServiceIdentity: h.identity(), Type: micro.InfoResponseType, Description: h.svc.Description}
	h.endpoints(func(name, subject string) {
		i.Endpoints = append(i.Endpoints, micro.EndpointInfo{Name: name, Subject: subject, QueueGroup: h.svc.QueueGroup})
	})
	return i
}

func (h *host) statistics() any {
	s := micro.Stats{ServiceIdentity: h.identity(), Type: micro.StatsResponseType, Started: h.stats.started}
	h.endpoints(func(name, subject string) {
		e := h.stats.of(subject)
		e.Name, e.Subject, e.QueueGroup = name, subject, h.svc.QueueGroup
		s.Endpoints = append(s.Endpoints, &e)
	})
	return s
}

// monitor subscribes to what the tools for micro services ask for.
func (h *host) monitor(subscribe func(subject, queue string, f nats.MsgHandler) (*nats.Subscription, error)) error {
	h.stats.started, h.stats.bySubject = time.Now().UTC(), make(map[string]*micro.EndpointStats)
	h.endpoints(func(_, subject string) {
		h.stats.bySubject[subject] = new(micro.EndpointStats) // so that others do not take its place
		if strings.HasSuffix(subject, ">") {
			h.stats.all = subject
		}
	})
	h.stats.most = len(h.stats.bySubject) + maxOthers
	for verb, answer := range map[micro.Verb]func() any{micro.PingVerb: h.ping, micro.InfoVerb: h.info, micro.StatsVerb: h.statistics} {
		for _, who := range [][2]string{{"", ""}, {h.svc.Name, ""}, {h.svc.Name, h.id}} {
			subject, err := micro.ControlSubject(verb, who[0], who[1])
			if err != nil {
				return err
			}
			if _, err := subscribe(subject, "", func(m *nats.Msg) {
				if !mayAnswer(m.Reply) {
					return
				}
				b, err := json.Marshal(answer())
				if err == nil {
					err = m.Respond(b)
				}
				if err != nil {
					h.svc.Logger.Warn("tandem: discovery over NATS was not answered", "error", err)
				}
			}); err != nil {
				return err
			}
		}
	}
	return nil
}
