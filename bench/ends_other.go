//go:build !linux

package main

import (
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/worker"
)

func registerEnds(*worker.Server) {}

func planLimits(*suite.Options) (suite.Plan, error) {
	return suite.Plan{Skipped: []string{"the limits need Linux"}}, nil
}

func planPath(*suite.Options) (suite.Plan, error) {
	return suite.Plan{Skipped: []string{"the pieces of a call are measured on Linux"}}, nil
}

// copyCases needs Linux, as the limits do.
func copyCases(int) ([]suite.Case, func()) { return nil, func() {} }
